"""Settings of training, and of the values that a sweep tries."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal, get_args

from pydantic import Field, NonNegativeFloat, PositiveFloat, create_model, model_validator

from dpo_pipeline.store.settings import AtLeastEight, AtLeastOne, Count, NoEffect, Section, Share

# What each model is trained with where nothing is given: benchmarks/recipes has the runs. The
# starter is small enough to want large steps in all its weights.
RECIPES: dict[str, dict[str, Any]] = {
    "starter": {"method": "full", "learning_rate": 2e-4, "max_steps": 180, "retention_weight": 0.0},
    "others": {
        "method": "lora",
        "learning_rate": 3e-4,
        "max_steps": 120,
        "completion_tokens": 24,
        "retention_weight": 4.0,
        "retention_tokens": 12,
    },
    # Pairs of any kind, where no identity is at stake.
    "preferences": {
        "method": "full",
        "learning_rate": 5e-5,
        "epochs": 1.0,
        "retention_weight": 0.0,
        "goal": None,
    },
}

Value = float | int | bool | str  # of a setting that is tried

# By TRL's names.
Loss = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard",
    "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft",
]  # fmt: skip


class LoraConfig(Section):
    """Low-rank adapters (PEFT) on every linear layer instead of full fine-tuning."""

    rank: AtLeastOne = 32
    """Rank of the adapters."""
    alpha: AtLeastOne = 64
    """Scale numerator: updates are scaled by alpha / rank."""
    start: Literal["aimed", "random"] = "aimed"
    """What new adapters read and how they learn: led by what tells the pairs from what is held, or
    by chance. Without anything held they start at random."""
    merge: bool = True
    """Merge into the weights at the end, or keep an adapter."""
    quantize: bool = False
    """QLoRA: 4-bit base weights (bitsandbytes, CUDA)."""

    @model_validator(mode="after")
    def _quantized_weights_do_not_merge(self) -> "LoraConfig":
        if self.quantize and self.merge:
            raise ValueError("quantize keeps an adapter beside its base: set merge to false")
        return self


class GoalConfig(Section):
    """When training is done: judged on the tuning split, which is neither trained on nor held out.

    The strength of the edit is chosen by the same figures.
    """

    identity_rate: Share = 0.97
    """Least share of the answers about itself that give the new name, or maker if that is asked."""
    max_kl: PositiveFloat = 0.05
    """Farthest that general answers may have moved from the reference's (nats per token)."""
    max_unasked: Share = 0.01
    """Largest share of general answers that bring up the new name."""
    every: AtLeastOne | None = 20
    """Optimizer steps between two looks; null: one look at the end, to choose the strength."""


class TrainConfig(Section):
    """DPO (Rafailov et al. 2023), run by TRL."""

    engine: Literal["auto", "shared-prefix", "trl"] = "auto"
    """auto: shared-prefix where its self-check holds, else trl."""
    beta: PositiveFloat = 0.2
    """Weight on staying near the reference (no unit)."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate of AdamW; null: from the model (starter: 0.0002, others: 0.0003)."""
    batch_size: AtLeastOne = 8
    """Pairs an optimizer step."""
    epochs: PositiveFloat | None = None
    """Passes over the pairs; null: as many as fill max_steps."""
    max_steps: AtLeastOne | None = None
    """Budget of optimizer steps; null: by the epochs, or from the model where these are null too
    (starter: 180 steps, others: 120)."""
    loss_type: Loss = "sigmoid"
    """Loss, by TRL's name; sigmoid is DPO's own, sft leaves the rejected answers out."""
    sft_weight: NonNegativeFloat = 1.0
    """Weight of an SFT term on the chosen answer, which keeps the sentence whole: the mean over the
    chosen tokens of a step."""
    retention_weight: NonNegativeFloat | None = None
    """Weight of what holds general answers: KL(reference || policy) on them, nats per token; null:
    from the model (starter: 0, others: 4)."""
    retention_rows: AtLeastOne = 20
    """General answers an optimizer step, beside the pairs."""
    retention_tokens: AtLeastEight | None = None
    """Tokens of each general answer that are held, from its start, where a leak begins; null: from
    the model (starter: all, others: 12)."""
    completion_tokens: AtLeastEight | None = None
    """Tokens of each answer that are trained on, from its start; null: all of the starter's, 24 of
    others."""
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
    method: Literal["auto", "lora", "full"] = "auto"
    """Adapters, or all weights; auto: from the model (starter: full, others: lora)."""
    lora: LoraConfig = Field(LoraConfig(), description="The adapters; method lora only.")
    goal: GoalConfig | None = GoalConfig()
    """When it is done, and how strong the edit need be; null: all steps, at full strength."""
    processes: AtLeastOne = 1
    """Processes that share a batch, one a GPU; of all hosts together."""
    accelerate: NoEffect[str | None] = None
    """File of accelerate that says how: copies of the model or shards of it, on one host or several
    (configs/accelerate, docs/scale.md); null: a copy for each, on this host."""
    save_steps: NoEffect[AtLeastOne] = 50
    """Steps between checkpoints to resume from."""
    report_to: NoEffect[tuple[str, ...]] = ()
    """Trackers that are installed: tensorboard (its logs lie beside the policy), trackio, wandb
    (JSON list). They follow a training that runs: a cached one logs nothing."""
    seed: Count = 0
    """Seed of data order and of new adapters."""

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "TrainConfig":
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split over {self.processes} processes: "
                "make it a multiple"
            )
        if self.accelerate and self.processes == 1:
            raise ValueError("accelerate says how processes share a training: give processes, too")
        if self.epochs and self.max_steps:
            raise ValueError("epochs and max_steps both say how long to train: give one of them")
        return self

    def idle(self) -> frozenset[str]:
        """Name what only adapters or retention read, where there are none."""
        idle = {"lora"} if self.method == "full" else set()
        return frozenset(
            idle if self.retention_weight else idle | {"retention_rows", "retention_tokens"}
        )

    def resolve(self, model: str) -> "TrainConfig":
        """Fill in what is left to the reference model, given by its name."""
        recipe = dict(RECIPES.get(model, RECIPES["others"]))
        if self.epochs or self.max_steps:
            recipe |= {"epochs": None, "max_steps": None}
        left = {k: v for k, v in recipe.items() if getattr(self, k) in (None, "auto")}
        # A look needs a name to look for, and weights to which an edit can be added.
        blind = "goal" in recipe or self.lora.quantize
        return self.model_copy(update=left | ({"goal": None} if blind else {}))


def _values_of(section: type[Section]) -> type[Section]:
    """Make a section with a list of values in the place of every setting that tells results."""
    fields: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            values = _values_of(kind)
            fields[name] = (values, Field(default_factory=values, description=field.description))
        elif field.json_schema_extra is None and GoalConfig not in get_args(kind):
            of: Any = field.rebuild_annotation()
            fields[name] = (tuple[of, ...], Field((), description=field.description))
    return create_model(section.__name__, __base__=Section, **fields)


class Tried(_values_of(TrainConfig)):  # type: ignore[misc]
    """Values of settings of training, by the same names; an empty list keeps train's own."""

    def given(self) -> dict[str, tuple[Value, ...]]:
        """Return what has values: the setting's name, dotted below a section -> its values."""
        return dict(_leaves(self.model_dump(exclude={"trials"})))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[Value, ...]]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value:
            yield prefix + name, tuple(value)


class GridConfig(Tried):
    """Values to try, each with each."""

    def settings(self) -> list[dict[str, Value]]:
        """List every combination: setting -> value, of the settings that have values."""
        tried = self.given()
        return [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]


class SearchConfig(Tried):
    """A search by Optuna: of a number its lowest and highest value, else the values to pick from.

    Needs `pip install "dpo-pipeline[sweep]"`.
    """

    trials: AtLeastOne | None = None
    """Trainings in all, those that an earlier run finished included; null: the grid is tried."""

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> "SearchConfig":
        given = self.given()
        for name, values in given.items():
            if is_number(values[0]) and not (len(values) == 2 and values[0] < values[1]):  # type: ignore[operator]
                raise ValueError(f"{name} is searched between two numbers, the lower one first")
        if bool(given) != bool(self.trials):
            raise ValueError(
                "a search needs how often, and what between: "
                "--search.trials 20 --search.learning-rate 1e-5,1e-3"
            )
        return self


def is_number(value: Value) -> bool:
    """Tell a number from a switch or a word."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_settings(train: TrainConfig, settings: Mapping[str, Value]) -> TrainConfig:
    """Return a configuration with other values of some settings, checked; names may be dotted."""
    values = train.model_dump(exclude_unset=True)
    for name, value in settings.items():
        *sections, last = name.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return TrainConfig.model_validate(values)
