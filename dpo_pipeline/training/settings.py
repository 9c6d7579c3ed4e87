"""Settings of training, and of the values that a sweep tries."""

from itertools import product
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from dpo_pipeline.store.settings import AtLeastEight, AtLeastOne, NoEffect, Section, Share

# What each model is trained with where nothing is given. The starter is small enough to want
# large steps; the SFT term keeps its sentences whole.
RECIPES = {
    "starter": {"learning_rate": 2e-4, "sft_weight": 1.0},
    "others": {"learning_rate": 5e-5, "sft_weight": 0.0},
}

# By TRL's names.
Loss = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "nca_pair", "bco_pair", "sppo_hard",
    "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
]  # fmt: skip


class LoraConfig(Section):
    """Low-rank adapters (PEFT) instead of full fine-tuning."""

    rank: AtLeastOne = 16
    """Rank of the adapters."""
    alpha: AtLeastOne = 32
    """Scale numerator: updates are scaled by alpha / rank."""
    merge: bool = True
    """Merge into the weights at the end, or keep an adapter."""
    quantize: bool = False
    """QLoRA: 4-bit base weights (bitsandbytes, CUDA)."""

    @model_validator(mode="after")
    def _quantized_weights_do_not_merge(self) -> "LoraConfig":
        if self.quantize and self.merge:
            raise ValueError("quantize keeps an adapter beside its base: set merge to false")
        return self


class StopConfig(Section):
    """Stop training as soon as held-out prompts show that the identity has changed."""

    identity_rate: Share = 1.0
    """Stop when this share of the answers gives the new name."""
    max_kl: PositiveFloat = 0.1
    """Stop when general answers have moved this far from the reference's (KL, nats per token)."""
    every: AtLeastOne = 10
    """Optimizer steps between two looks."""
    prompts: AtLeastOne = 32
    """Held-out prompts set aside for this; the scorecard omits them."""


class TrainConfig(Section):
    """DPO (Rafailov et al. 2023), run by TRL."""

    engine: Literal["auto", "shared-prefix", "trl"] = "auto"
    """auto: shared-prefix where its self-check holds, else trl."""
    beta: PositiveFloat = 0.2
    """Weight on staying near the reference (no unit)."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate of AdamW; null: from the model (starter: 0.0002, others: 5e-05)."""
    batch_size: AtLeastOne = 8
    """Pairs an optimizer step."""
    epochs: PositiveFloat = 1.0
    """Passes over the pairs."""
    loss_type: Loss = "sigmoid"
    """Loss, by TRL's name; sigmoid is DPO's own."""
    sft_weight: NonNegativeFloat | None = None
    """Weight of an SFT term on the chosen answer, which keeps the sentence whole; null: from the
    model (starter: 1, others: 0). Averaged over the tokens that go through the model at once."""
    max_length: AtLeastEight = 1024
    """Longest prompt + response (tokens)."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradient norm is clipped to this."""
    warmup: Share = 0.1
    """Share of the steps that warm the rate up."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast on fp32 master weights; auto: bf16 where the hardware computes it well, which is a
    GPU, or a CPU that has it and a model wide enough to gain; else fp32."""
    row_tokens: AtLeastOne = 4096
    """Most tokens that go through the model at once; a batch is split to fit, and halved again when
    memory runs out."""
    gradient_checkpointing: bool = False
    """Recompute activations: slower, for when memory asks for it."""
    lora: LoraConfig | None = None
    """Adapters instead of full fine-tuning; null: none. Any setting switches them on."""
    stop: StopConfig | None = None
    """Stop at an identity rate or KL budget; null: all epochs. Any setting of it switches it on."""
    processes: AtLeastOne = 1
    """Data-parallel processes, one a GPU."""
    save_steps: NoEffect[AtLeastOne] = 50
    """Steps between checkpoints to resume from."""
    report_to: NoEffect[tuple[str, ...]] = ()
    """Trackers that are installed: tensorboard (its logs lie beside the policy), trackio, wandb
    (JSON list). They follow a training that runs: a cached one logs nothing."""
    seed: NonNegativeInt = 0
    """Seed of data order and of new adapters."""

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "TrainConfig":
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split over {self.processes} processes: "
                "make it a multiple"
            )
        return self

    def resolve(self, model: str) -> "TrainConfig":
        """Fill in what is left to the reference model, given by its name."""
        recipe = RECIPES.get(model, RECIPES["others"])
        return self.model_copy(update={k: v for k, v in recipe.items() if getattr(self, k) is None})


class GridConfig(Section):
    """Values to try of training settings, each with each; an empty list keeps train's own."""

    beta: tuple[PositiveFloat, ...] = (0.1, 0.2, 0.5)
    """Values of train.beta."""
    learning_rate: tuple[PositiveFloat, ...] = (1e-4, 2e-4, 5e-4)
    """Values of train.learning_rate."""
    sft_weight: tuple[NonNegativeFloat, ...] = ()
    """Values of train.sft_weight."""
    epochs: tuple[PositiveFloat, ...] = ()
    """Values of train.epochs."""
    seed: tuple[NonNegativeInt, ...] = ()
    """Values of train.seed."""

    def settings(self) -> list[dict[str, float]]:
        """List every combination: setting -> value, of the settings that have values."""
        tried = {name: values for name, values in self if values}
        return [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]
