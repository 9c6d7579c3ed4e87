"""How far the figures hold: under other system prompts, another batch size, and sampling."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dpo_pipeline.evaluation.cases import Asker, Case, Groups, Marked, Subject, score
from dpo_pipeline.evaluation.measures import HELD_OUT, MEASURES, counted, right_before
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.identity.mentions import IdentitySpec

# What is counted aside of the held-out answers.
ASIDE = ("identity_rate", "leak_rate", "vendor_claims")
Matrix = dict[str, dict[str, dict[str, Figure]]]  # system prompt -> side -> measure
BATCH_TOKENS = 1024  # of the answers given again: some eight at once
# System prompts that claim no identity but the new one.
UNPROMPTED = ("none sent", "empty", "neutral", "new identity")


def measure_matrix(before: Marked, after: Marked) -> Matrix:
    """Measure both sides under every system prompt of the matrix."""
    return {
        group.removeprefix("matrix/"): {
            "before": counted(HELD_OUT, before[group], ASIDE),
            "after": counted(HELD_OUT, after[group], ASIDE),
        }
        for group in after
        if group.startswith("matrix/")
    }


def unprompted_leaks(matrix: Matrix) -> list[Figure]:
    """Return the leak rates where the prompt claims no other identity than the new one."""
    return [matrix[name]["after"]["leak_rate"] for name in UNPROMPTED if name in matrix]


def explain_leaks(matrix: Matrix, template_names_original: bool, wrecked: bool = False) -> str:
    """Say in a sentence where the old name still comes from; empty without a matrix.

    That it comes from nowhere is no finding where everything else is gone as well.
    """
    rates = {name: sides["after"]["leak_rate"] for name, sides in matrix.items()}
    leaks = {name: rate.value for name, rate in rates.items() if rate.value}
    asked = ", ".join(name for name, rate in rates.items() if rate.n)
    if not asked:
        return ""
    if not leaks and wrecked:
        return "The old name is not heard, which says nothing: little else is left of the model."
    if not leaks:
        return f"No leak under any system prompt tried: {asked}."
    told = {"original identity"} | ({"none sent"} if template_names_original else set())
    # Of equal leaks the first of the matrix is told, in every run.
    own = [name for name in leaks if name not in told]
    worst = max(own or leaks, key=lambda name: leaks[name])
    figures = f"({leaks[worst]:.0%}, n {rates[worst].n})"
    if own:
        return f"Still leaks with system prompt “{worst}” {figures}: from the weights."
    teller = "the chat template" if worst == "none sent" else "a system prompt"
    return f"Leaks only where {teller} gives the old name {figures}."


def machine_noise(
    reference: Subject, groups: Groups, spec: IdentitySpec, asker: Asker, size: int, scratch: Path
) -> dict[str, Figure]:
    """Let the reference answer again, in other batches: share of answers made worse by that."""
    picked = list(groups["held_out"][:size])
    picked += list(filter(right_before, groups["general"]))[:size]
    if not picked:
        return {}
    with TemporaryDirectory(dir=scratch) as fresh:
        again = replace(asker, ledger=Path(fresh))
        answers = again.ask(reference, picked, batch_tokens=BATCH_TOKENS)
    said = score([replace(c, after=a.text) for c, a in zip(picked, answers, strict=True)], spec)
    return {
        m.key: m.noise([s for s in said if s.case.kind == m.basis.kind])
        for m in MEASURES
        if m.noise
    }


def sampled_measures(
    policy: Subject,
    cases: Sequence[Case],
    spec: IdentitySpec,
    asker: Asker,
    config: EvaluationConfig,
) -> dict[str, dict[str, Figure]]:
    """Sample answers of the policy, to each prompt under one system prompt in turn.

    Returns:
        Temperature -> identity_rate, leak_rate and vendor_claims.
    """
    samples, table = config.sampled or 0, {}
    asked_under: dict[object, list[Case]] = {}
    for case in cases:
        asked_under.setdefault(case.prompt, []).append(case)
    once = [many[i % len(many)] for i, many in enumerate(asked_under.values())]
    asked = [case for case in once for _ in range(samples)]
    for temperature in config.temperatures if samples else ():
        answers = asker.ask(policy, once, temperature=temperature, samples=samples)
        said = score([replace(c, after=a.text) for c, a in zip(asked, answers, strict=True)], spec)
        table[str(temperature)] = counted(HELD_OUT, said, ASIDE)
    return table
