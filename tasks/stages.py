"""The stages: what each takes, makes and prints.

A stage's body is one library call, imported where it is called, so that a run which reuses
everything loads neither torch nor transformers.
"""

from collections.abc import Sequence
from pathlib import Path

from dpo_pipeline.answers.collecting import AnswerStats
from dpo_pipeline.answers.records import Census
from dpo_pipeline.answers.retaining import RetentionStats
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.cases import Subject
from dpo_pipeline.evaluation.likelihood import PreferenceStats
from dpo_pipeline.evaluation.parity import ParityStats
from dpo_pipeline.evaluation.scorecard import Evidence, ScoreStats, Terms
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelStats
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.pairs.dataset import DatasetStats
from dpo_pipeline.pairs.instructing import InstructStats
from dpo_pipeline.pairs.preferences import PreferenceStats as PreparedStats
from dpo_pipeline.pairs.rewriting import RewriteStats
from dpo_pipeline.pairs.schema import Lineage
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.pairs.writing import PairStats
from dpo_pipeline.prompts.preparation import PromptStats
from dpo_pipeline.prompts.retention import tuning_file
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.sources import SourceRef
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.training.records import TrainJob, child_module
from dpo_pipeline.training.run import TrainStats
from dpo_pipeline.training.settings import TrainConfig
from tasks.models import inside
from tasks.runners import NUMERIC
from tasks.stage import Build, model_of, stage

# What a stage does not read of how answers are generated: one with questions of its own says itself
# how far and how often they are answered; one whose answers are all greedy draws none; and an
# evaluation asks in process.
OWN = ("in_turn", "max_new_tokens", "temperature", "samples", "check_rows")
DRAWN = ("top_p", "seed")
SERVED = ("engine", "base_url", "served_model")


def _describe_census(stats: Census) -> str:
    names = dict.fromkeys(name for one in stats.standings for name in list(one.names)[:1])
    return f"{len(stats.answers)} answers, commonest names {', '.join(names) or 'none'}"


@stage(
    packages=NUMERIC,
    counts="answers",
    says=_describe_census,
    unread={"generation": (*OWN, "system_prompts", "top_p")},
)
def census(
    build: Build, *, model: Artifact[ModelStats], generation: GenerationConfig, run_on: ModelConfig
) -> Census:
    """Ask the reference model who it is, before anything depends on its name."""
    from dpo_pipeline.answers.census import take_census

    found = take_census(model_of(model), build.report, **build.how(run_on, generation))
    found.write(build.out / "census.json")
    return found


def _refused(reasons: dict[str, int]) -> str:
    listed = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
    return f" (quarantine: {listed})" if listed else ""


def _describe_split(stats: PromptStats | DatasetStats, what: str) -> str:
    return f"{stats.train:,} {what} to train, {stats.held_out:,} held out"


@stage(
    packages=("pyarrow", "datasets"),
    says=lambda stats: _describe_split(stats, "prompts") + _refused(stats.reasons),
)
def download(
    build: Build, *, source: SourceRef, prompts: PromptsConfig, identity: IdentityConfig
) -> PromptStats:
    """Turn raw identity conversations into unique prompts, train and held out."""
    from dpo_pipeline.prompts.preparation import prepare_prompts

    return prepare_prompts(source, prompts, identity, build.out)


def _describe_answers(stats: AnswerStats) -> str:
    failed = f", {stats.error} failed" if stats.error else ""
    return f"{stats.rows:,} answers, {stats.length} cut off{failed}"


@stage(
    packages=NUMERIC,
    counts="answers",
    on=lambda prompts, **_: f"on {prompts.stats.rows:,} prompts",
    says=_describe_answers,
)
def generate(
    build: Build,
    *,
    model: Artifact[ModelStats],
    prompts: Artifact[PromptStats],
    generation: GenerationConfig,
    run_on: ModelConfig,
) -> AnswerStats:
    """Let the reference model answer every prompt: its own answers are the rejected ones."""
    from dpo_pipeline.answers.collecting import collect_responses

    path, how = prompts.path / "prompts.parquet", build.how(run_on, generation)
    return collect_responses(model_of(model), path, build.out, build.report, **how)


@stage(
    packages=NUMERIC,
    counts="answers",
    says=lambda stats: f"{stats.rows:,} general answers to hold",
    unread={"generation": (*OWN, *DRAWN)},
)
def retain(
    build: Build,
    *,
    model: Artifact[ModelStats],
    retention: Path,
    rows: int | None,
    tokens: int,
    generation: GenerationConfig,
    run_on: ModelConfig,
) -> RetentionStats:
    """Let the reference model answer general prompts: what training holds where it was."""
    from dpo_pipeline.answers.retaining import answer_retention, pick_retention

    picked = pick_retention(retention, rows)
    how = build.how(run_on, generation)
    return answer_retention(model_of(model), picked, tokens, build.out, build.report, **how)


@stage(
    packages=NUMERIC,
    counts="answers",
    on=lambda responses, **_: f"on {responses.stats.rows:,} answers",
    says=lambda stats: f"{stats.accepted:,} of {stats.rows:,} prompts answered as the new one",
    unread={"generation": (*OWN, *DRAWN, "system_prompts")},
)
def instruct(
    build: Build,
    *,
    model: Artifact[ModelStats],
    responses: Artifact[AnswerStats],
    identity: IdentityConfig,
    generation: GenerationConfig,
    run_on: ModelConfig,
) -> InstructStats:
    """Let the model answer as the new identity where it gives no name that could be replaced."""
    from dpo_pipeline.pairs.instructing import instruct

    answers, how = responses.path / "responses.parquet", build.how(run_on, generation)
    return instruct(answers, model_of(model), identity, build.out, build.report, **how)


def _describe_pairs(stats: PairStats) -> str:
    return f"{stats.pairs:,} pairs of {stats.rows:,} rows{_refused(stats.reasons)}"


@stage(
    packages=("pyarrow", "transformers", "tokenizers"),
    on=lambda responses, **_: f"on {responses.stats.rows:,} answers",
    says=_describe_pairs,
    unread={"pairs": ("min_pairs", "min_yield")},
)
def rewrite(
    build: Build,
    *,
    model: Artifact[ModelStats],
    responses: Artifact[AnswerStats],
    instructed: Artifact[InstructStats] | None,
    identity: IdentityConfig,
    pairs: PairsConfig,
) -> RewriteStats:
    """Find the chosen answer to each of the model's own: first the same with the name replaced."""
    from dpo_pipeline.pairs.rewriting import build_pairs

    answers = responses.path / "responses.parquet"
    told = instructed.path / "instructed.parquet" if instructed else None
    return build_pairs(answers, model_of(model), identity, pairs, build.out, told)


@stage(
    packages=("pyarrow", "datasets", "transformers", "tokenizers"),
    says=_describe_pairs,
    unread={"pairs": ("ways", "min_pairs", "min_yield")},
)
def prepare(
    build: Build,
    *,
    model: Artifact[ModelStats],
    source: SourceRef,
    prompts: PromptsConfig,
    pairs: PairsConfig,
) -> PreparedStats:
    """Turn a preference dataset that already exists into the same pairs."""
    from dpo_pipeline.pairs.preferences import prepare_preferences

    return prepare_preferences(source, prompts, pairs, model_of(model), build.out)


@stage(
    packages=("pyarrow",),
    on=lambda pairs, **_: f"on {pairs.stats.pairs:,} pairs",
    says=lambda stats: _describe_split(stats, "pairs"),
    unread={"config": ("ways", "max_length")},
)
def save(
    build: Build,
    *,
    pairs: Artifact[RewriteStats] | Artifact[PreparedStats],
    config: PairsConfig,
    lineage: Lineage,
) -> DatasetStats:
    """Save the pairs as Parquet, with where every byte came from."""
    from dpo_pipeline.pairs.dataset import save_dataset

    return save_dataset(pairs.path, lineage, config, build.out)


def _describe_training(stats: TrainStats) -> str:
    early = f" of {stats.planned_steps}" if stats.steps < stats.planned_steps else ""
    engine = f"trl: {stats.fallback}" if stats.fallback else stats.engine
    goal = {True: ", goal met", False: ", goal not met", None: ""}[stats.goal_met]
    return (
        f"{stats.steps}{early} steps ({engine}), loss {stats.first['loss']:.3f} -> "
        f"{stats.last['loss']:.3f}, reward margin {stats.last['margin']:.1f}{goal} at strength "
        f"{stats.strength:g}"
    )


@stage(
    packages=(*NUMERIC, "trl", "peft", "accelerate"),
    counts="steps",
    on=lambda dataset, **_: f"on {dataset.stats.train:,} pairs",
    says=_describe_training,
    unread={"run_on": ("dtype",)},
    also_runs=lambda *, config, **_: [child_module(config)],
    also_reads=lambda *, config, **_: [tuning_file()] if config.goal else [],
)
def train(
    build: Build,
    *,
    model: Artifact[ModelStats],
    dataset: Artifact[DatasetStats],
    retention: Artifact[RetentionStats] | None = None,
    config: TrainConfig,
    run_on: ModelConfig,
    identity: IdentityConfig | None = None,
    systems: Sequence[str | None] | None = None,
    patch_template: IdentityConfig | None = None,
) -> TrainStats:
    """Train the policy with DPO, in a child process that ends with this task."""
    from dpo_pipeline.answers.retaining import common_languages
    from dpo_pipeline.identity.system_message import patch_template as patch
    from dpo_pipeline.models.references import describe_model
    from dpo_pipeline.training.run import train

    ref = model_of(model)
    job = TrainJob(
        ref=ref,
        dataset=dataset.path,
        retention=retention.path / "retention.parquet" if retention else None,
        config=config,
        identity=identity,
        systems=tuple(systems or (None,)),
        languages=common_languages(dataset.path / "train.parquet") if identity else (),
        device=run_on.device,
        out=build.out,
        work=build.work,
        references=build.references,
    )
    record = train(job, build.report, build.watch)
    template = patch(build.out / "model", patch_template) if patch_template else None
    policy = describe_model(build.out / "model", f"{ref.name}-policy")
    return TrainStats(**{**dict(record), "model": inside(policy), "template": template})


@stage(
    packages=NUMERIC,
    counts="answers",
    on=lambda prompts, **_: f"on {prompts.stats.held_out:,} prompts",
    says=lambda stats: f"{stats.rows:,} answers compared",
    unread={"terms": [f"generation.{name}" for name in (*OWN, *SERVED)]},
)
def evaluate(
    build: Build,
    *,
    reference: Artifact[ModelStats],
    policy: Artifact[ModelStats] | Artifact[TrainStats],
    prompts: Artifact[PromptStats],
    dataset: Artifact[DatasetStats] | None = None,
    export: Artifact[ParityStats] | None = None,
    terms: Terms,
    general: Path,
    lm_eval: dict[str, str],
    run_on: ModelConfig,
) -> ScoreStats:
    """Ask both models what the training never saw; score what changed and what should not."""
    from dpo_pipeline.evaluation.parity import Parity
    from dpo_pipeline.evaluation.scorecard import Material, evaluate

    before, after = model_of(reference), model_of(policy)
    found = Parity.read(export.path / "parity.json") if export else None
    folder = dataset.path if dataset else None
    stats = evaluate(
        Subject(before, run_on),
        Subject(after, run_on),
        Material(prompts.path / "prompts.parquet", folder, found),
        terms,
        ledger=build.ledger,
        spread=build.spread,
        references=build.references,
        out=build.out,
        on_progress=build.report,
    )
    # What the verdict holds for: publishing compares these with what it is about to send.
    measured = dict(after) | {"dataset_digest": dataset.digest if dataset else ""}
    return stats.model_copy(update={"evidence": Evidence.model_validate(measured)})


def _describe_parity(stats: ParityStats) -> str:
    same, kl = stats.export_same_answers.value, stats.export_kl.value
    far = "not comparable" if kl is None else f"{kl:.2g}"
    return f"{same:.1%} of {stats.rows:,} answers the same, KL {far}"


@stage(
    packages=NUMERIC,
    on=lambda prompts, **_: f"on {prompts.stats.held_out:,} prompts",
    says=_describe_parity,
    unread={
        "generation": (*OWN, *DRAWN, *SERVED),
        "evaluation": (
            *("trained_prompts", "matrix_prompts", "max_pairs", "noise_prompts"),
            *("sampled", "temperatures", "lm_eval"),
        ),
    },
)
def parity(
    build: Build,
    *,
    policy: Artifact[ModelStats],
    export: Artifact[ModelStats],
    prompts: Artifact[PromptStats],
    general: Path,
    identity: IdentityConfig,
    generation: GenerationConfig,
    evaluation: EvaluationConfig,
    run_on: ModelConfig,
    export_on: ModelConfig,
) -> ParityStats:
    """Tell whether an export of the policy still answers as the policy does."""
    from dpo_pipeline.evaluation.parity import check_parity

    return check_parity(
        Subject(model_of(policy), run_on),
        Subject(model_of(export), export_on),
        prompts=prompts.path / "prompts.parquet",
        identity=identity,
        generation=generation,
        config=evaluation,
        ledger=build.ledger,
        spread=build.spread,
        out=build.out,
    )


@stage(
    packages=NUMERIC,
    on=lambda dataset, **_: f"on {dataset.stats.held_out:,} pairs",
    says=lambda stats: f"{stats.rows:,} pairs compared",
)
def compare(
    build: Build,
    *,
    reference: Artifact[ModelStats],
    policy: Artifact[TrainStats],
    dataset: Artifact[DatasetStats],
    beta: float,
    max_pairs: int,
    run_on: ModelConfig,
) -> PreferenceStats:
    """Measure on held-out pairs how much more the policy prefers the chosen answers."""
    from dpo_pipeline.evaluation.likelihood import compare_preferences

    return compare_preferences(
        Subject(model_of(reference), run_on),
        Subject(model_of(policy), run_on),
        dataset.path / "held_out.parquet",
        beta=beta,
        max_pairs=max_pairs,
        out=build.out,
    )
