"""The scorecard: what training changed in the answers, and what it left alone.

Both models answer the same prompts greedily, through the same ledger as the generate stage,
so that what the reference already answered costs nothing.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation import measures, statistics
from dpo_pipeline.evaluation.cases import Case, plan_cases, probe_pairs
from dpo_pipeline.evaluation.gate import judge
from dpo_pipeline.evaluation.likelihood import measure_likelihoods
from dpo_pipeline.evaluation.lm_eval_tasks import score_tasks
from dpo_pipeline.evaluation.measures import Scored
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.evaluation.statistics import Measure
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.system_message import describe_default_system
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.tables import read_rows
from dpo_pipeline.training.settings import TrainConfig

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None] | None
Ask = Callable[..., list[Response]]
Groups = dict[str, list[Case]]
Matrix = dict[str, dict[str, dict[str, Measure]]]  # system prompt -> side -> measure

# System prompts of the matrix that claim no identity but the new one.
UNPROMPTED = ("none sent", "empty", "neutral", "new identity")


def evaluate(
    before: ModelRef,
    after: ModelRef,
    *,
    prompts: Path,
    dataset: Path | None,
    export: Mapping[str, Any] | None = None,
    identity: IdentityConfig,
    generation: GenerationConfig,
    model: ModelConfig,
    train: TrainConfig,
    config: EvaluationConfig,
    gate: GateConfig,
    ledger: Path,
    out: Path,
    on_progress: Progress = None,
) -> dict[str, Any]:
    """Score a policy against its reference; write scorecard.json and answers.parquet.

    Args:
        before: The reference.
        after: The policy.
        prompts: prompts.parquet of the download stage.
        dataset: Folder with held_out.parquet of the save stage; null: pairs are made of the
            reference's own held-out answers, and no prompt is taken for trained on.
        export: What `check_parity` found of an export of the policy; null: there is none.
        identity: The identity before and after.
        generation: As in the generate stage; decoding is greedy and in process here.
        model: Device and precision.
        train: Its beta scales the rewards; prompts that it stopped by are left out.
        config: How much is measured.
        gate: Thresholds of the verdict.
        ledger: Answers made so far; new ones are added.
        out: Empty folder.
        on_progress: Called with answers done and to be done.
    Returns:
        rows (answers compared) and verdict. scorecard.json holds verdict; before and after
        (measure -> value, n, low, high); by (dimension -> group -> measure); matrix (system
        prompt -> side -> measure); leaks (where from); template (side -> what it inserts);
        sampled, noise, export, examples, identity and counts.
    Raises:
        EvaluationError: When no held-out prompt is left to judge by.
        DataError: When the file of general questions cannot be read.
    """
    spec = IdentitySpec(identity)
    how = generation.model_copy(update={"engine": "transformers", "temperature": 0.0, "samples": 1})
    ask = partial(answer, model=model, config=how, ledger=ledger)
    aside = _looked_at(train, dataset)
    if dataset is None:  # nobody knows what training saw
        config = config.model_copy(update={"trained_prompts": 0})
    plan = plan_cases(prompts, identity, generation.system_prompts, config, aside)
    now = _answered(plan, before, after, ask, on_progress)
    was = {group: [_unchanged(case) for case in cases] for group, cases in now.items()}
    scored, scored_before = (
        {group: measures.score(cases, spec) for group, cases in side.items()} for side in (now, was)
    )
    pairs = read_rows(dataset / "held_out.parquet") if dataset else _ideal_pairs(scored["held_out"])
    figures = _text_measures(scored) | measure_likelihoods(
        before, after, pairs, now["general"], aside, model=model, train=train, config=config
    )
    tasks = score_tasks(before, after, config.lm_eval, model) if config.lm_eval else ({}, {})
    figures |= tasks[1]
    noise = machine_noise(before, now, spec, ask, how, config.noise_prompts, out)
    matrix = _matrix(scored_before, scored)
    figures["matrix_leak"] = worst_leak(matrix)
    if export:
        figures |= {name: Measure(**export[name]) for name in measures.EXPORT_LINES}
    template = {
        side: describe_default_system(load_tokenizer(ref), spec)
        for side, ref in (("before", before), ("after", after))
    }
    was_figures = _text_measures(scored_before) | tasks[0]
    card = {
        "verdict": judge(figures, gate, noise, _excused(was_figures, config)),
        "before": was_figures,
        "after": figures,
        "by": measures.splits(scored["held_out"]),
        "matrix": matrix,
        "leaks": explain_leaks(matrix, template["after"]["names_original"]),
        "template": template,
        "sampled": sampled_measures(after, now["held_out"], spec, ask, how, config),
        "noise": noise,
        "export": export,
        "examples": [
            {"prompt": c.messages[-1]["content"], "before": c.before, "after": c.after}
            for c in now["display"]
        ],
        "identity": {"original_name": identity.original_name, "new_name": identity.new_name},
        "counts": {group: len(cases) for group, cases in now.items()},
    }
    text = json.dumps(card, default=Measure.model_dump, ensure_ascii=False, indent=1)
    (out / "scorecard.json").write_text(text + "\n", encoding="utf-8")
    write_answers(scored, out / "answers.parquet")
    return {"rows": sum(map(len, now.values())), "verdict": card["verdict"]}


def _excused(before: dict[str, Measure], config: EvaluationConfig) -> dict[str, str]:
    """Say which lines of the gate have nothing to measure, and why."""
    reasons = {}
    if config.lm_eval is None:
        reasons["lm_eval_drop"] = "no task of lm-eval is set"
    if not config.max_pairs:
        reasons |= dict.fromkeys(("tail_gap", "preference_accuracy"), "evaluation.max_pairs is 0")
    if not config.matrix_prompts:
        reasons["matrix_leak"] = "evaluation.matrix_prompts is 0"
    if not before["organisation_kept"].n:
        reasons["organisation_kept"] = "the reference never named its maker"
    if not before["denial_kept"].n:
        reasons["denial_kept"] = "the reference never denied being another"
    return reasons


def machine_noise(
    before: ModelRef,
    groups: Groups,
    spec: IdentitySpec,
    ask: Ask,
    how: GenerationConfig,
    size: int,
    scratch: Path,
) -> dict[str, Measure]:
    """Let the reference answer again, one prompt at a time, and compare it with itself.

    Returns:
        Gate line -> share of answers that the batch size alone changed for the worse.
    """
    picked = groups["held_out"][:size]
    picked += [c for c in groups["general"] if measures.right(c.before, c.accepted)][:size]
    if not picked:
        return {}
    alone = how.model_copy(update={"batch_tokens": 1, "check_rows": 0})
    with TemporaryDirectory(dir=scratch) as fresh:
        answers = ask(before, _requests(picked), config=alone, ledger=Path(fresh))
    again = [(case, response.text) for case, response in zip(picked, answers, strict=True)]
    return {
        "edit_exactness": statistics.rate(t != c.before for c, t in again if c.kind == "identity"),
        "organisation_kept": statistics.rate(
            not spec.names_developer(t)
            for c, t in again
            if c.kind == "identity" and spec.names_developer(c.before)
        ),
        "general_kept": statistics.rate(
            not measures.right(t, c.accepted) for c, t in again if c.kind == "general"
        ),
    }


def sampled_measures(
    after: ModelRef,
    cases: Sequence[Case],
    spec: IdentitySpec,
    ask: Ask,
    how: GenerationConfig,
    config: EvaluationConfig,
) -> dict[str, dict[str, Measure]]:
    """Sample answers of the policy: temperature -> identity_rate and leak_rate."""
    samples, table = config.sampled, {}
    once = list({case.prompt: case for case in reversed(cases)}.values())[::-1]
    asked = [case for case in once for _ in range(samples)]
    for temperature in config.temperatures if samples else ():
        sampling = how.model_copy(update={"temperature": temperature, "samples": samples})
        answers = ask(after, _requests(once, samples), config=sampling)
        scored = measures.score(
            (replace(c, after=a.text) for c, a in zip(asked, answers, strict=True)), spec
        )
        found = measures.identity_measures(scored)
        table[str(temperature)] = {name: found[name] for name in ("identity_rate", "leak_rate")}
    return table


def _ideal_pairs(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """Pair the reference's answers with the same answers after rewriting."""
    return [
        {
            "id": f"{i:06}",
            "prompt_id": s.case.prompt,
            "prompt": list(s.case.messages),
            "chosen": [{"role": "assistant", "content": s.ideal}],
            "rejected": [{"role": "assistant", "content": s.case.before}],
        }
        for i, s in enumerate(scored)
        if s.ideal != s.case.before
    ]


def _looked_at(train: TrainConfig, dataset: Path | None) -> set[str]:
    """Return the ids of the held-out prompts that training stopped by: they are seen."""
    if not (train.stop and dataset):
        return set()
    pairs = probe_pairs(dataset / "held_out.parquet", train.stop.prompts)
    return {str(pair["prompt_id"]) for pair in pairs}


def _requests(cases: Sequence[Case], samples: int = 1) -> list[Request]:
    return [Request(messages=c.messages, sample=i) for c in cases for i in range(samples)]


def _unchanged(case: Case) -> Case:
    return replace(case, after=case.before, after_finish=case.before_finish)


def _answered(
    plan: Groups, before: ModelRef, after: ModelRef, ask: Ask, on_progress: Progress
) -> Groups:
    """Ask both models; what one of them cannot answer (a template may refuse) is left out."""
    requests = _requests([case for cases in plan.values() for case in cases])

    def told(offset: int) -> Progress:
        return on_progress and (lambda done, total: on_progress(offset * total + done, 2 * total))

    logger.info("asking %d prompts before and after", len(requests))
    was = ask(before, requests, on_progress=told(0))
    now = ask(after, requests, on_progress=told(1))
    answers = iter(zip(was, now, strict=True))
    groups: Groups = {}
    for group, cases in plan.items():
        groups[group] = [
            replace(c, before=b.text, before_finish=b.finish, after=a.text, after_finish=a.finish)
            for c, (b, a) in zip(cases, answers, strict=False)
            if "error" not in (b.finish, a.finish)
        ]
        if lost := len(cases) - len(groups[group]):
            logger.warning("%s: %d of %d prompts were not answered", group, lost, len(cases))
    return groups


def _text_measures(scored: dict[str, list[Scored]]) -> dict[str, Measure]:
    trained = measures.identity_measures(scored["trained"])
    return {
        **measures.identity_measures(scored["held_out"]),
        "trained_identity_rate": trained["identity_rate"],
        "trained_exactness": trained["edit_exactness"],
        **measures.general_measures(scored["general"]),
    }


def _matrix(was: dict[str, list[Scored]], now: dict[str, list[Scored]]) -> Matrix:
    wanted = ("identity_rate_all", "leak_rate", "edit_exactness")
    return {
        group.removeprefix("matrix/"): {
            side: {name: measures.identity_measures(scored[group])[name] for name in wanted}
            for side, scored in (("before", was), ("after", now))
        }
        for group in now
        if group.startswith("matrix/")
    }


def worst_leak(matrix: Matrix) -> Measure:
    """Return the largest leak rate where the prompt claims no other identity than the new one."""
    rates = [matrix[name]["after"]["leak_rate"] for name in UNPROMPTED if name in matrix]
    return max(rates, key=lambda rate: rate.value or 0.0, default=statistics.NOTHING)


def explain_leaks(matrix: Matrix, template_names_original: bool) -> str:
    """Say in a sentence where the old name still comes from; empty without a matrix."""
    rates = {name: sides["after"]["leak_rate"] for name, sides in matrix.items()}
    leaks = {name: rate.value for name, rate in rates.items() if rate.value}
    if not leaks:
        asked = ", ".join(name for name, rate in rates.items() if rate.n)
        return f"No leak under any system prompt tried: {asked}." if asked else ""
    told = {"original identity"} | ({"none sent"} if template_names_original else set())
    own = leaks.keys() - told
    worst = max(own or leaks, key=lambda name: leaks[name])
    figures = f"({leaks[worst]:.0%}, n {rates[worst].n})"
    if own:
        return f"Still leaks with system prompt “{worst}” {figures}: from the weights."
    teller = "the chat template" if worst == "none sent" else "a system prompt"
    return f"Leaks only where {teller} gives the old name {figures}."


def write_answers(scored: dict[str, list[Scored]], path: Path) -> None:
    """Write every prompt with its answers before and after, the ideal one and all marks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, texts = pa.string(), pa.list_(pa.string())
    columns = {
        **dict.fromkeys(("group", "kind", "family", "language"), text),
        "turns": pa.int32(),
        "system": text,
        "messages": pa.list_(pa.struct([("role", text), ("content", text)])),
        **dict.fromkeys(("before", "after", "ideal", "before_finish", "after_finish"), text),
        "exact": pa.bool_(),
        **dict.fromkeys(("before_flags", "after_flags"), texts),
    }
    rows = [
        {
            **{name: getattr(s.case, name, None) for name in columns},
            "group": group,
            "ideal": s.ideal,
            "exact": s.exact,
            "before_flags": s.before.flags(),
            "after_flags": s.after.flags(),
        }
        for group, many in scored.items()
        for s in many
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items()))), path)
