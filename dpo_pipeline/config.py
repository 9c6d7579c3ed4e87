"""What a run is made of: one frozen model per stage, every field with its meaning and unit.

`PipelineConfig` is at once the schema of the YAML files under configs/, the options of
`python flows/full.py`, and the form of the Prefect deployment. What is left to another setting
(null, or auto) is so in all three; `resolve` fills it in at the start of a run.
"""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.store.settings import AtLeastOne, NoEffect, Section
from dpo_pipeline.training.settings import GridConfig, SearchConfig, TrainConfig, with_settings

S = TypeVar("S", bound=Section)
# No user and no password: it lands in logs and summaries.
Address = Annotated[str, Field(pattern=r"^([a-z]+://)?[^/@?#\s]+$")]


def _section(kind: type[S], description: str) -> S:
    return Field(default_factory=kind, description=description)


def _check_split(prompts: PromptsConfig) -> None:
    if prompts.held_out == 0:
        raise ValueError(
            "prompts.held_out is 0, and nothing would be left to measure on: leave it at "
            f"{PromptsConfig().held_out}; rows that carry a split of their own keep it"
        )


def _check_training(model: ModelConfig, pairs: PairsConfig, train: TrainConfig) -> None:
    if pairs.max_length > train.max_length:
        raise ValueError(
            f"pairs.max_length is {pairs.max_length}, and train.max_length = {train.max_length} "
            "would cut such pairs: give both the same value"
        )
    if train.lora.quantize and model.device == "cpu":
        raise ValueError(
            "train.lora.quantize needs a GPU, and model.device is cpu: set quantize to false"
        )


class RunConfig(Section):
    """Where the work of a run is done."""

    task_runner: NoEffect[Literal["threads", "processes", "dask", "ray"]] = "threads"
    """threads: the run does it all itself. The others share out the answers, and the trainings of a
    sweep, over processes of this machine, a Dask or a Ray cluster."""
    address: NoEffect[Address | None] = None
    """Where a cluster runs: tcp://host:8786 (Dask), host:6379 or ray://host:10001 (Ray); null: one
    of this machine is started for the run."""
    workers: NoEffect[AtLeastOne] = 2
    """Processes of this machine; those of a running cluster count themselves."""

    @model_validator(mode="after")
    def _address_is_of_a_cluster(self) -> "RunConfig":
        if self.address and self.task_runner not in ("dask", "ray"):
            raise ValueError(
                f"run.address {self.address} is of a cluster, and run.task_runner is "
                f"{self.task_runner}: set it to dask or ray"
            )
        return self


class ExperimentConfig(Section):
    """From prompts to a scorecard."""

    model: ModelConfig = _section(ModelConfig, "The reference model.")
    identity: IdentityConfig = _section(IdentityConfig, "The identity before and after.")
    prompts: PromptsConfig = _section(PromptsConfig, "Where the prompts come from.")
    generation: GenerationConfig = _section(GenerationConfig, "How the reference model answers.")
    pairs: PairsConfig = _section(PairsConfig, "How answers become pairs.")
    train: TrainConfig = _section(TrainConfig, "DPO training.")
    evaluation: EvaluationConfig = _section(EvaluationConfig, "What is measured.")
    gate: GateConfig = _section(GateConfig, "What must hold.")
    run: RunConfig = _section(RunConfig, "Where the work is done.")

    def resolve(self) -> Self:
        """Fill in what is left to the model's name; `census.settle` does so for its identity."""
        return self.model_copy(
            update={
                "generation": self.generation.resolve(self.model.name),
                "pairs": self.pairs.resolve(self.model.name),
                "train": self.train.resolve(self.model.name),
                "evaluation": self.evaluation.resolve(self.model.name),
            }
        )

    @model_validator(mode="after")
    def _stages_fit(self) -> "ExperimentConfig":
        _check_split(self.prompts)
        _check_training(self.model, self.pairs, self.train)
        return self


class PipelineConfig(ExperimentConfig):
    """One run of the pipeline."""

    publish: PublishConfig = _section(PublishConfig, "What goes to the Hub.")


class SweepConfig(ExperimentConfig):
    """Several trainings on one cached dataset, compared."""

    grid: GridConfig = _section(GridConfig, "Values to try, each with each.")
    search: SearchConfig = _section(SearchConfig, "A search between limits, in the grid's place.")

    def resolve(self) -> Self:
        """Fill in what is left to the model's name, and a grid where nothing is to be tried."""
        grid = self.grid
        if not (grid.given() or self.search.given()):
            grid = GridConfig(beta=(0.1, 0.2, 0.5), learning_rate=(1e-4, 2e-4, 5e-4))
        return super().resolve().model_copy(update={"grid": grid})

    @model_validator(mode="after")
    def _tries_one_way(self) -> "SweepConfig":
        if self.search.trials and self.grid.given():
            raise ValueError("grid and search are two ways to try settings: give one of them")
        for settings in self.grid.settings():
            with_settings(self.train, settings)  # a combination that makes no sense ends here
        return self


class EvaluateConfig(Section):
    """A policy scored against its reference, without training."""

    reference: ModelConfig = _section(ModelConfig, "The model before the change.")
    policy: ModelConfig
    """The model after the change."""
    export: ModelConfig | None = None
    """The policy again, reloaded, merged or in another precision: is it the same?"""
    identity: IdentityConfig = _section(IdentityConfig, "The identity before and after.")
    prompts: PromptsConfig = _section(PromptsConfig, "Where the prompts come from.")
    generation: GenerationConfig = _section(GenerationConfig, "How the models answer.")
    evaluation: EvaluationConfig = _section(EvaluationConfig, "What is measured.")
    gate: GateConfig = _section(GateConfig, "What must hold.")
    run: RunConfig = _section(RunConfig, "Where the work is done.")

    def resolve(self) -> Self:
        """Fill in what is left to the reference; `census.settle` does so for its identity."""
        return self.model_copy(update={"evaluation": self.evaluation.resolve(self.reference.name)})

    @model_validator(mode="after")
    def _both_can_be_scored_alike(self) -> "EvaluateConfig":
        _check_split(self.prompts)
        for name in ("device", "dtype"):
            ours, theirs = getattr(self.policy, name), getattr(self.reference, name)
            if ours != theirs:
                raise ValueError(
                    f"reference.{name} is {theirs} and policy.{name} is {ours}: both are run "
                    "alike, so give both the same; another precision is what export is for"
                )
        return self


class PreferenceConfig(Section):
    """One run on a preference dataset that already exists."""

    model: ModelConfig = _section(ModelConfig, "The reference model.")
    prompts: PromptsConfig
    """Where the preferences come from."""
    pairs: PairsConfig = _section(PairsConfig, "Which pairs are kept.")
    train: TrainConfig = _section(TrainConfig, "DPO training.")
    evaluation: EvaluationConfig = _section(
        EvaluationConfig, "How many held-out pairs are measured."
    )

    def resolve(self) -> Self:
        """Fill in what is left to the model."""
        return self.model_copy(update={"train": self.train.resolve("preferences")})

    @model_validator(mode="after")
    def _can_be_trained_on(self) -> "PreferenceConfig":
        if self.prompts.source == "shipped":
            raise ValueError(
                "prompts.source 'shipped' holds questions and no preferences: name a file or a "
                "Hub dataset with chosen and rejected answers"
            )
        _check_training(self.model, self.pairs, self.train)
        return self
