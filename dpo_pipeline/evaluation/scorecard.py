"""The scorecard: what training changed in the answers, and what it left alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation import robustness
from dpo_pipeline.evaluation.asking import Asker, Models, Progress, ask_both
from dpo_pipeline.evaluation.cases import plan_cases, probe_pairs
from dpo_pipeline.evaluation.gate import Verdict, excuses, judge
from dpo_pipeline.evaluation.likelihood import measure_likelihoods
from dpo_pipeline.evaluation.lm_eval_tasks import score_tasks
from dpo_pipeline.evaluation.marking import Scored, score, write_answers
from dpo_pipeline.evaluation.measures import GENERAL, HELD_OUT, MATRIX, TRAINED, counted
from dpo_pipeline.evaluation.parity import Parity
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.system_message import describe_default_system
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import read_rows

Side = Literal["before", "after"]

# What held-out answers are split by, and the measures of each group.
DIMENSIONS = ("family", "language", "turns", "system")
SPLIT = ("identity_rate", "leak_rate", "edit_exactness", "organisation_kept")


class Example(Record):
    """A question that everybody asks, and what both models say."""

    prompt: str
    before: str
    after: str


class Names(Record):
    """The identity before and after."""

    original_name: str
    new_name: str


class Scorecard(Record):
    """Content of scorecard.json.

    Attributes:
        verdict: What the gate says.
        before, after: Measure -> figure.
        by: Dimension -> group -> measure -> figure, of held-out answers.
        matrix: System prompt -> side -> measure -> figure.
        leaks: Where the old name still comes from, in a sentence.
        template: What each side's chat template inserts where no system message is sent.
        sampled: Temperature -> measure -> figure.
        noise: Measure -> what the reference changes against itself.
        export: What was found of an export, if there is one.
        examples: Answers to the same few questions.
        identity: The names.
        counts: Group -> answers compared.
    """

    verdict: Verdict
    before: dict[str, Figure]
    after: dict[str, Figure]
    by: dict[str, dict[str, dict[str, Figure]]]
    matrix: robustness.Matrix
    leaks: str
    template: dict[Side, dict[str, Any]]
    sampled: dict[str, dict[str, Figure]]
    noise: dict[str, Figure]
    export: Parity | None
    examples: tuple[Example, ...]
    identity: Names
    counts: dict[str, int]


class ScoreStats(Record):
    """What an evaluation is known by: answers compared, and the verdict."""

    rows: int
    verdict: Verdict


@dataclass(frozen=True)
class Material:
    """What a policy is scored on.

    Attributes:
        prompts: prompts.parquet of the download stage.
        dataset: Folder with held_out.parquet of the save stage; None: pairs are made of the
            reference's own held-out answers, and no prompt is taken for trained on.
        export: What `check_parity` found of an export of the policy; None: there is none.
        set_aside: Held-out prompts that training stopped by: they are seen, and left out.
    """

    prompts: Path
    dataset: Path | None = None
    export: Parity | None = None
    set_aside: int = 0


@dataclass(frozen=True)
class Terms:
    """How a policy is scored.

    Attributes:
        identity: The names before and after.
        generation: As in the generate stage; decoding is greedy and in process here.
        evaluation: How much is measured.
        gate: Thresholds of the verdict.
        beta: That of training, which scales the rewards.
    """

    identity: IdentityConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig
    gate: GateConfig
    beta: float


def evaluate(
    models: Models,
    material: Material,
    terms: Terms,
    *,
    ledger: Path,
    out: Path,
    on_progress: Progress = None,
) -> ScoreStats:
    """Score a policy against its reference; write scorecard.json and answers.parquet.

    Args:
        models: Reference and policy.
        material: What is asked and compared.
        terms: How, and what must hold.
        ledger: Answers made so far; new ones are added.
        out: Empty folder.
        on_progress: Called with answers done and to be done.
    Raises:
        EvaluationError: When no held-out prompt is left to judge by.
        DataError: When the file of general questions cannot be read.
    """
    spec, asker = IdentitySpec(terms.identity), Asker(models.run_on, terms.generation, ledger)
    config = terms.evaluation
    aside = _looked_at(material)
    if material.dataset is None:  # nobody knows what training saw
        config = config.model_copy(update={"trained_prompts": 0})
    systems = terms.generation.system_prompts
    plan = plan_cases(material.prompts, terms.identity, systems, config, aside)
    cases = ask_both(plan, models, asker, on_progress)
    now = {group: score(many, spec) for group, many in cases.items()}
    was = {
        group: score([replace(c, after=c.before, after_finish=c.before_finish) for c in many], spec)
        for group, many in cases.items()
    }
    matrix = robustness.measure_matrix(was, now)
    before, after = _figures(models, material, terms, was, now, aside)
    after |= counted(MATRIX, robustness.unprompted_leaks(matrix))
    noise = robustness.machine_noise(
        models.reference, cases, spec, asker, config.noise_prompts, out
    )
    template = {
        "before": describe_default_system(load_tokenizer(models.reference), spec),
        "after": describe_default_system(load_tokenizer(models.policy), spec),
    }
    card = Scorecard(
        verdict=judge(after, terms.gate, noise, excuses(before, config)),
        before=before,
        after=after,
        by=split(now["held_out"]),
        matrix=matrix,
        leaks=robustness.explain_leaks(matrix, template["after"]["names_original"]),
        template=template,
        sampled=robustness.sampled_measures(models.policy, cases["held_out"], spec, asker, config),
        noise=noise,
        export=material.export,
        examples=[
            Example(prompt=c.messages[-1]["content"], before=c.before, after=c.after)
            for c in cases["display"]
        ],
        identity=terms.identity.model_dump(include={"original_name", "new_name"}),
        counts={group: len(many) for group, many in cases.items()},
    )
    card.write(out / "scorecard.json")
    write_answers(now, out / "answers.parquet")
    return ScoreStats(rows=sum(card.counts.values()), verdict=card.verdict)


def _figures(
    models: Models,
    material: Material,
    terms: Terms,
    was: Mapping[str, Sequence[Scored]],
    now: Mapping[str, Sequence[Scored]],
    aside: set[str],
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """Measure both sides: what is said, how likely pairs are, tasks, and the export."""
    before, after = (
        counted(HELD_OUT, side["held_out"])
        | counted(TRAINED, side["trained"])
        | counted(GENERAL, side["general"])
        for side in (was, now)
    )
    pairs: Iterable[dict[str, Any]] = _ideal_pairs(now["held_out"])
    if material.dataset:
        pairs = read_rows(material.dataset / "held_out.parquet")
    config = terms.evaluation
    after |= measure_likelihoods(
        models,
        pairs,
        [s.case for s in now["general"]],
        beta=terms.beta,
        max_pairs=config.max_pairs,
        aside=aside,
    )
    if config.lm_eval:
        tasks_before, tasks_after = score_tasks(models, config.lm_eval)
        before, after = before | tasks_before, after | tasks_after
    return before, after | (material.export.figures() if material.export else {})


def split(scored: Sequence[Scored]) -> dict[str, dict[str, dict[str, Figure]]]:
    """Split the main measures of held-out answers by what was asked and under which system."""
    table: dict[str, dict[str, dict[str, Figure]]] = {}
    for dimension in DIMENSIONS:
        groups: dict[str, list[Scored]] = {}
        for s in scored:
            value = getattr(s.case, dimension)
            groups.setdefault("(none sent)" if value is None else str(value), []).append(s)
        table[dimension] = {name: counted(HELD_OUT, groups[name], SPLIT) for name in sorted(groups)}
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


def _looked_at(material: Material) -> set[str]:
    """Return the ids of the held-out prompts that training stopped by."""
    if not (material.set_aside and material.dataset):
        return set()
    pairs = probe_pairs(material.dataset / "held_out.parquet", material.set_aside)
    return {str(pair["prompt_id"]) for pair in pairs}
