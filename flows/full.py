"""The whole pipeline: prompts -> answers -> pairs -> policy -> scorecard -> (Hub).

Run it as `python flows/full.py`, with `prefect deployment run full/starter`, or on a schedule.
"""

from typing import NamedTuple, TypeVar

from dpo_pipeline.config import ExperimentConfig, PipelineConfig, SweepConfig
from flows.cli import start

CONFIG = start(
    __name__,
    PipelineConfig,
    description="Give a chat model a new identity with DPO, and prove that nothing else changed.",
    example="--identity.new-name Aria",
)

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import NonNegativeFloat, PositiveFloat

from dpo_pipeline.answers.collecting import AnswerStats
from dpo_pipeline.answers.retaining import RetentionStats
from dpo_pipeline.evaluation.lm_eval_tasks import describe_tasks
from dpo_pipeline.evaluation.scorecard import ScoreStats, Terms
from dpo_pipeline.models.references import ModelStats
from dpo_pipeline.pairs.dataset import DatasetStats
from dpo_pipeline.pairs.rewriting import RewriteStats
from dpo_pipeline.prompts.general import general_file
from dpo_pipeline.prompts.preparation import PromptStats
from dpo_pipeline.prompts.retention import retention_file
from dpo_pipeline.prompts.sources import resolve_source
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.settings import AtLeastOne
from dpo_pipeline.training.run import TrainStats, Watch
from flows.settings import Settings, read
from tasks.models import prepare_model
from tasks.outcome import conclude, lineage_of, show_ways, warn_of_template
from tasks.publishing import check_publishing, publish_if_proven
from tasks.run import OPTIONS, begin, run_script
from tasks.settling import settle_identity, settle_turns
from tasks.stages import (
    census,
    download,
    evaluate,
    generate,
    instruct,
    retain,
    rewrite,
    save,
    train,
)

C = TypeVar("C", PipelineConfig, SweepConfig)


class Made(NamedTuple):
    """What a training starts from, and is judged on."""

    prompts: Artifact[PromptStats]
    model: Artifact[ModelStats]
    dataset: Artifact[DatasetStats]
    retention: Artifact[RetentionStats] | None


@flow(name="full", **OPTIONS)
def full(
    config: str = "",
    model: str = "",
    new_name: str = "",
    new_developer: str = "",
    prompts: str = "",
    beta: PositiveFloat | None = None,
    learning_rate: PositiveFloat | None = None,
    max_steps: AtLeastOne | None = None,
    retention_weight: NonNegativeFloat | None = None,
    model_repo: str = "",
    settings: Settings | None = None,
) -> State[None]:
    """Give a chat model a new identity and prove that nothing else changed.

    Ends as Completed when the scorecard passes the gate, else as Failed with the lines that
    failed and their figures. Every stage is cached on what it depends on. What is left empty
    comes from the config, else from the defaults.

    Args:
        config: YAML file of settings, such as configs/smollm2.yaml.
        model: The model to rename: starter, smollm2, a folder, a Hub id or a GGUF file.
        new_name: The name that it shall give.
        new_developer: The maker that it shall name; empty keeps the one before.
        prompts: The questions: shipped, a file, or a Hub dataset.
        beta: Weight on staying near the reference.
        learning_rate: Peak learning rate.
        max_steps: Budget of optimizer steps.
        retention_weight: Weight of what holds general answers where they were.
        model_repo: Hub repository (owner/name) for the model, private. A dry run, unless the
            settings say {"publish.dry_run": false}.
        settings: Any other option of the command line by its name: {"train.epochs": 2}.
    """
    parameters = {
        "model.name": model,
        "identity.new_name": new_name,
        "identity.new_developer": new_developer,
        "prompts.source": prompts,
        "train.beta": beta,
        "train.learning_rate": learning_rate,
        "train.max_steps": max_steps,
        "train.retention_weight": retention_weight,
        "publish.model_repo": model_repo,
    }
    return rename(read(PipelineConfig, config, settings, parameters))


def rename(config: PipelineConfig) -> State[None]:
    """Take the model through every stage, to the report and the verdict."""
    run, config = begin(config)
    check_publishing(config.publish)
    config, made = make_dataset(config)
    policy, score = train_and_score(config, made)
    # Report and verdict first: they are there whatever the Hub says.
    state = conclude(run, made.prompts, made.model, made.dataset, policy, score)
    publish_if_proven(run, config, made.model, made.dataset, policy, score)
    return state


def make_dataset(config: C) -> tuple[C, Made]:
    """Find out who the model is, let it answer identity questions, and make pairs of its answers.

    Returns:
        The configuration with all settled that was left to model and data, and what was made.
    """
    # What the evaluation will miss stops the run here, before hours of work.
    general_file(config.evaluation.general)
    describe_tasks(config.evaluation.lm_eval)
    source, model = resolve_source(config.prompts), prepare_model(config.model)
    asked = census(model=model, generation=config.generation, run_on=config.model)
    config = settle_identity(config, asked)
    prompts = download(source=source, prompts=config.prompts, identity=config.identity)
    config = settle_turns(config, prompts)
    responses = generate(
        model=model, prompts=prompts, generation=config.generation, run_on=config.model
    )
    pairs = pair_up(config, model, responses)
    warn_of_template(pairs, config.identity)
    show_ways(pairs)
    lineage = lineage_of(config, model, prompts)
    dataset = save(pairs=pairs, config=config.pairs, lineage=lineage)
    return config, Made(prompts, model, dataset, hold(config, model))


def pair_up(
    config: ExperimentConfig, model: Artifact[ModelStats], responses: Artifact[AnswerStats]
) -> Artifact[RewriteStats]:
    """Find the chosen answers; where no name can be replaced, the model gives them as told."""
    instructed = None
    if "instructed" in (config.pairs.ways or ()):
        instructed = instruct(
            model=model,
            responses=responses,
            identity=config.identity,
            generation=config.generation,
            run_on=config.model,
        )
    return rewrite(
        model=model,
        responses=responses,
        instructed=instructed,
        identity=config.identity,
        pairs=config.pairs,
    )


def hold(config: ExperimentConfig, model: Artifact[ModelStats]) -> Artifact[RetentionStats] | None:
    """Let the model answer what training holds still, as many questions as training comes to."""
    train = config.train
    if not train.retention_weight:
        return None
    return retain(
        model=model,
        retention=retention_file(config.prompts.retention),
        rows=train.retention_rows * train.max_steps if train.max_steps else None,
        tokens=train.retention_tokens or config.generation.max_new_tokens,
        generation=config.generation,
        run_on=config.model,
    )


def train_and_score(
    config: ExperimentConfig, made: Made, variant: str = "", watch: Watch | None = None
) -> tuple[Artifact[TrainStats], Artifact[ScoreStats]]:
    """Train a policy on the pairs, and ask it what the training never saw.

    `variant` tells it from others of the same run; `watch` is told what the tuning split says.
    """
    training = config.train
    policy = train.named(f"train {variant}".strip(), watch)(
        model=made.model,
        dataset=made.dataset,
        retention=made.retention,
        config=training,
        run_on=config.model,
        identity=config.identity if training.goal else None,
        systems=list(config.generation.system_prompts),
        patch_template=config.identity if config.identity.patch_template else None,
    )
    score = evaluate.named(f"evaluate {variant}".strip())(
        reference=made.model,
        policy=policy,
        prompts=made.prompts,
        dataset=made.dataset,
        general=general_file(config.evaluation.general),
        lm_eval=describe_tasks(config.evaluation.lm_eval),
        terms=Terms(
            config.identity, config.generation, config.evaluation, config.gate, training.beta
        ),
        run_on=config.model,
    )
    return policy, score


run_script(full, CONFIG)
