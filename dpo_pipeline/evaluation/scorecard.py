"""The scorecard: what training changed in the answers, and what it left alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from dpo_pipeline.answers.records import Spread
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation import cases, gate, likelihood, lm_eval_tasks, robustness
from dpo_pipeline.evaluation.cases import Marked, Progress, Scored, Subject, score
from dpo_pipeline.evaluation.measures import (
    GENERAL,
    HELD_OUT,
    MATRIX,
    SAMPLED,
    TRAINED,
    Basis,
    counted,
)
from dpo_pipeline.evaluation.parity import Parity
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.system_message import DefaultSystem, describe_default_system
from dpo_pipeline.pairs.writing import said
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import Row, messages_type, new_table, read_rows

Figures = dict[str, Figure]

# What held-out answers are split by, and the measures of each group.
DIMENSIONS = ("family", "language", "turns", "system")
SPLIT = ("identity_rate", "maker_rate", "leak_rate", "vendor_claims")
# What general answers are split by, their kind, and the measures of each.
KINDS = ("new_name_unasked", "maker_unasked", "general_unchanged")


class Example(Record):
    """A question that everybody asks, and what both models say."""

    prompt: str
    before: str
    after: str


class Names(Record):
    """The identity before and after."""

    original_name: str | None  # null: it gave itself none
    new_name: str


class Scorecard(Record):
    """Content of scorecard.json."""

    verdict: gate.Verdict
    before: Figures
    after: Figures
    by: dict[str, dict[str, Figures]]  # dimension -> group
    kinds: dict[str, Figures]  # kind of general question
    matrix: robustness.Matrix
    leaks: str  # where the old name still comes from, in a sentence
    template: dict[str, DefaultSystem]  # side -> what it inserts where no system message is sent
    sampled: dict[str, Figures]  # temperature
    noise: Figures  # what the reference changes against itself
    export: Parity | None
    examples: tuple[Example, ...]
    identity: Names
    counts: dict[str, int]  # group of prompts -> answers compared


class Evidence(Record):
    """What a scorecard was measured on; empty where there was none."""

    weights_digest: str = ""  # of the policy, as `describe_model` gives it
    template_digest: str = ""  # of its chat template and tokenizer, the same way
    dataset_digest: str = ""  # as the store gives it


class ScoreStats(Record):
    """What an evaluation is known by: answers compared, the verdict, and what it holds for."""

    rows: int
    verdict: gate.Verdict
    evidence: Evidence = Evidence()


@dataclass(frozen=True)
class Material:
    """What a policy is scored on."""

    prompts: Path  # prompts.parquet of the download stage
    # Folder with held_out.parquet of the save stage. Without, pairs are made of the reference's
    # own held-out answers, and no prompt is taken for trained on.
    dataset: Path | None = None
    export: Parity | None = None  # what was found of an export of the policy


@dataclass(frozen=True)
class Terms:
    """How a policy is scored: as generation asked, but greedily and in process."""

    identity: IdentityConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig
    gate: GateConfig
    beta: float  # that of training, which scales the rewards


def evaluate(
    before: Subject,
    after: Subject,
    material: Material,
    terms: Terms,
    *,
    ledger: Path,
    spread: Spread | None = None,  # has others answer
    references: Path,  # folder of what references say, shared by all runs
    out: Path,
    on_progress: Progress = None,  # called with answers done and to be done
) -> ScoreStats:
    """Score a policy against its reference; write scorecard.json and answers.parquet to `out`.

    Raises:
        EvaluationError: When no held-out prompt is left to judge by.
        DataError: When the file of general questions cannot be read.
    """
    spec, config = IdentitySpec(terms.identity), terms.evaluation
    asker = cases.Asker(terms.generation, config.max_new_tokens, ledger, spread)
    if material.dataset is None:  # nobody knows what training saw
        config = config.model_copy(update={"trained_prompts": 0})
    plan = cases.plan_cases(
        material.prompts, terms.identity, terms.generation.system_prompts, config
    )
    answered = cases.ask_both(plan, before, after, asker, on_progress)
    now = {group: score(many, spec) for group, many in answered.items()}
    was = {g: score([replace(c, after=c.before) for c in answered[g]], spec) for g in answered}
    matrix = robustness.measure_matrix(was, now)
    was_figures, figures = _measure(before, after, material, terms, was, now, references)
    figures |= counted(MATRIX, robustness.unprompted_leaks(matrix))
    sampled = robustness.sampled_measures(after, answered["held_out"], spec, asker, config)
    figures |= counted(SAMPLED, list(sampled.values()))
    noise = robustness.machine_noise(before, answered, spec, asker, config.noise_prompts, out)
    inserted = [describe_default_system(model.tokenizer(), spec) for model in (before, after)]
    card = Scorecard(
        verdict=gate.judge(figures, terms.gate, noise, gate.excuses(was_figures, config)),
        before=was_figures,
        after=figures,
        by={name: split(now["held_out"], name) for name in DIMENSIONS},
        kinds=split(now["general"], "kind", GENERAL, KINDS),
        matrix=matrix,
        leaks=robustness.explain_leaks(
            matrix, inserted[1].names_original, gate.is_wrecked(figures, terms.gate)
        ),
        template=dict(zip(("before", "after"), inserted, strict=True)),
        sampled=sampled,
        noise=noise,
        export=material.export,
        examples=[{"prompt": c.asked, **vars(c)} for c in answered["display"]],
        identity=terms.identity.model_dump(include={"original_name", "new_name"}),
        counts={group: len(many) for group, many in answered.items()},
    )
    card.write(out / "scorecard.json")
    write_answers(now, out / "answers.parquet")
    return ScoreStats(rows=sum(card.counts.values()), verdict=card.verdict)


def _measure(
    before: Subject,
    after: Subject,
    material: Material,
    terms: Terms,
    was: Marked,
    now: Marked,
    references: Path,
) -> tuple[Figures, Figures]:
    """Measure both sides: what is said, how likely pairs are, tasks, and the export."""
    was_figures, figures = (
        counted(HELD_OUT, side["held_out"])
        | counted(TRAINED, side["trained"])
        | counted(GENERAL, side["general"])
        for side in (was, now)
    )
    dataset = material.dataset
    from dpo_pipeline.evaluation.divergence import measure_divergence

    general = [s.case for s in now["general"]]
    figures |= measure_divergence(before, after, general, references)
    figures |= likelihood.measure_pairs(
        before,
        after,
        read_rows(dataset / "held_out.parquet") if dataset else _ideal_pairs(now["held_out"]),
        beta=terms.beta,
        max_pairs=terms.evaluation.max_pairs,
    )
    if terms.evaluation.lm_eval:
        tasks = lm_eval_tasks.score_tasks(before, after, terms.evaluation.lm_eval)
        was_figures, figures = was_figures | tasks[0], figures | tasks[1]
    export = {name: found for name, found in material.export or () if isinstance(found, Figure)}
    return was_figures, figures | export


def split(
    scored: Sequence[Scored], by: str, basis: Basis = HELD_OUT, measures: Sequence[str] = SPLIT
) -> dict[str, Figures]:
    """Split measures by a fact of the cases: what was asked, and under which system prompt."""
    groups: dict[str, list[Scored]] = {}
    for s in scored:
        value = getattr(s.case, by)
        groups.setdefault("(none sent)" if value is None else str(value), []).append(s)
    return {name: counted(basis, groups[name], measures) for name in sorted(groups)}


def _ideal_pairs(scored: Sequence[Scored]) -> list[Row]:
    """Pair the reference's answers with the same answers after rewriting."""
    return [
        {
            "id": f"{i:06}",
            "prompt_id": s.case.prompt,
            "prompt": list(s.case.messages),
            "chosen": said(s.ideal),
            "rejected": said(s.case.before),
        }
        for i, s in enumerate(scored)
        if s.rewritten
    ]


def write_answers(scored: Marked, path: Path) -> None:
    """Write every prompt with its answers before and after, the ideal one and all marks."""
    text = pa.string()
    columns = {
        **dict.fromkeys(("group", "kind", "family", "language"), text),
        **{"turns": pa.int32(), "system": text, "messages": messages_type()},
        **dict.fromkeys(("before", "after", "ideal", "before_finish", "after_finish"), text),
        **{"exact": pa.bool_(), "before_flags": pa.list_(text), "after_flags": pa.list_(text)},
    }
    with new_table(path, pa.schema(columns)) as add:
        for group, many in scored.items():
            for s in many:
                told = {**vars(s), **vars(s.case), "system": s.case.system}  # answers, not marks
                flags = {"before_flags": s.before.flags(), "after_flags": s.after.flags()}
                add({"group": group, **told, **flags})
