"""What a run is made of: one frozen model per stage, every field with its meaning and unit.

`PipelineConfig` is at once the schema of the YAML files under configs/, the options of
`python flows/full.py`, and the form of the Prefect deployment.
"""

from typing import Any

from pydantic import (
    Field,
    model_validator,
)

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.store.settings import Section
from dpo_pipeline.training.settings import GridConfig, TrainConfig


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
    if train.lora and train.lora.quantize and model.device == "cpu":
        raise ValueError(
            "train.lora.quantize needs a GPU, and model.device is cpu: set quantize to false"
        )


# The starter is small enough to want large steps; the SFT term keeps its sentences whole.
# Settings that are good for real models leave it as it was.
STARTER_TRAINING = {"learning_rate": 2e-4, "sft_weight": 1.0}


class ExperimentConfig(Section):
    """From prompts to a scorecard.

    Where the model is the starter, training settings that are not given are the starter's own.
    """

    model: ModelConfig = Field(default_factory=ModelConfig, description="The reference model.")
    identity: IdentityConfig = Field(
        default_factory=IdentityConfig, description="The identity before and after."
    )
    prompts: PromptsConfig = Field(
        default_factory=PromptsConfig, description="Where the prompts come from."
    )
    generation: GenerationConfig = Field(
        default_factory=GenerationConfig, description="How the reference model answers."
    )
    pairs: PairsConfig = Field(default_factory=PairsConfig, description="How answers become pairs.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="DPO training.")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="What is measured."
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="What must hold.")

    @model_validator(mode="before")
    @classmethod
    def _starter_has_its_own(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        model, train = data.get("model", {}), data.get("train", {})
        name = model.get("name", "starter") if isinstance(model, dict) else model.name
        if name == "starter" and isinstance(train, dict):
            return {**data, "train": {**STARTER_TRAINING, **train}}
        return data

    @model_validator(mode="after")
    def _stages_fit(self) -> "ExperimentConfig":
        _check_split(self.prompts)
        _check_training(self.model, self.pairs, self.train)
        if self.pairs.strategy == "template" and not (
            self.identity.new_developer or self.identity.developer
        ):
            for language, answers in self.pairs.templates.items():
                if all("{developer}" in answer for answer in answers):
                    raise ValueError(
                        f"pairs.templates {language!r} has only answers with {{developer}}, and "
                        "identity.developer is null: set it, or add an answer without"
                    )
        return self


class PipelineConfig(ExperimentConfig):
    """One run of the pipeline."""

    publish: PublishConfig = Field(
        default_factory=PublishConfig, description="What goes to the Hub."
    )


class SweepConfig(ExperimentConfig):
    """Several trainings on one cached dataset, compared."""

    grid: GridConfig = Field(default_factory=GridConfig, description="What is tried.")


class EvaluateConfig(Section):
    """A policy scored against its reference, without training."""

    reference: ModelConfig = Field(
        default_factory=ModelConfig, description="The model before the change."
    )
    policy: ModelConfig = Field(description="The model after the change.")
    export: ModelConfig | None = Field(
        None,
        description="The policy again, reloaded, merged or in another precision: is it the same?",
    )
    identity: IdentityConfig = Field(
        default_factory=IdentityConfig, description="The identity before and after."
    )
    prompts: PromptsConfig = Field(
        default_factory=PromptsConfig, description="Where the prompts come from."
    )
    generation: GenerationConfig = Field(
        default_factory=GenerationConfig, description="How the models answer."
    )
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="What is measured."
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="What must hold.")

    @model_validator(mode="after")
    def _something_is_held_out(self) -> "EvaluateConfig":
        _check_split(self.prompts)
        return self

    @model_validator(mode="after")
    def _both_run_alike(self) -> "EvaluateConfig":
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

    model: ModelConfig = Field(default_factory=ModelConfig, description="The reference model.")
    prompts: PromptsConfig = Field(description="Where the preferences come from.")
    pairs: PairsConfig = Field(default_factory=PairsConfig, description="Which pairs are kept.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="DPO training.")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="How many held-out pairs are measured."
    )

    @model_validator(mode="after")
    def _can_be_trained_on(self) -> "PreferenceConfig":
        if self.prompts.source == "shipped":
            raise ValueError(
                "prompts.source 'shipped' holds questions and no preferences: name a file or a "
                "Hub dataset with chosen and rejected answers"
            )
        _check_training(self.model, self.pairs, self.train)
        return self

    @model_validator(mode="after")
    def _no_name_to_look_for(self) -> "PreferenceConfig":
        if self.train.stop:
            raise ValueError("train.stop looks for a new name, and preferences have none")
        return self
