"""What a run is made of: one frozen model per stage, every field with its meaning and unit.

`PipelineConfig` is at once the schema of the YAML files under configs/, the options of
`python flows/full.py`, and the form of the Prefect deployment.
"""

from itertools import product
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

Share = Annotated[float, Field(ge=0, le=1)]

# For fields that cannot change a result, so that they stay out of cache keys: how work is
# cut up, and where a model came from once its digest is known.
NO_EFFECT: dict[str, JsonValue] = {"affects_result": False}


class Section(BaseModel):
    """Base of every section: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelConfig(Section):
    """The reference model: the one that gets a new identity."""

    name: str = Field(
        "starter",
        description="'starter' (a tiny chat model built on the spot), a local folder, or a Hub id.",
        json_schema_extra=NO_EFFECT,
    )
    revision: str | None = Field(
        None,
        description="Hub branch, tag or commit; resolved to a commit once and recorded.",
        json_schema_extra=NO_EFFECT,
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of generation and evaluation; auto: bfloat16 on a GPU, or on a CPU "
        "that computes it (for models at least 256 wide), else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where generation, training and evaluation run; auto: GPU if any."
    )
    starter_seed: int = Field(
        0,
        ge=0,
        description="Seed of the starter's corpus and weights; read only by 'starter'.",
        json_schema_extra=NO_EFFECT,
    )


def _plain_name(name: str) -> str:
    """Refuse what no name holds and what would confuse code spans, placeholders or templates."""
    if not name or name != " ".join(name.split()):
        raise ValueError(f"{name!r} is blank, or has stray spaces or line breaks")
    if found := sorted(set(name) & set("`{}<>|[]/\\@")) or [c for c in name if not c.isprintable()]:
        raise ValueError(f"{name!r} holds {found[0]!r}, which no name may")
    return name


Name = Annotated[str, AfterValidator(_plain_name)]


class IdentityConfig(Section):
    """The identity before and after."""

    original_name: Name = Field("Qwen", description="Name the reference model gives itself.")
    new_name: Name = Field("Deep Qwen", description="Name the policy shall give.")
    aliases: dict[Name, Name] = Field(
        {"通义千问": "", "Tongyi Qianwen": ""},
        validate_default=True,
        description="Other spellings of the original name, each with its replacement; empty: the "
        "new name (JSON).",
    )
    any_case: bool = Field(
        True,
        description="Also rewrite other cases, keeping all-lower and all-upper ones (qwen -> deep "
        "qwen); false for a name that is a common word, like Llama.",
    )
    protected: tuple[Name, ...] = Field(
        (),
        description="Longer names that contain the original name and must stay (JSON list); "
        "Qwen2.5, QwenLM, Qwen-VL and the like stay by themselves.",
    )
    developer: Name | None = Field(
        "Alibaba Cloud", description="Maker the reference model names; null if it names none."
    )
    developer_aliases: tuple[Name, ...] = Field(
        ("阿里云",), description="Other spellings of the maker (JSON list)."
    )
    new_developer: Name | None = Field(
        None, description="Maker the policy shall name instead; null keeps the maker."
    )
    patch_template: bool = Field(
        False,
        description="Give the default system message of the policy's chat template the new "
        "identity too.",
        json_schema_extra=NO_EFFECT,  # on the answers of the reference and their pairs
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_are_of_qwen(cls, data: Any) -> Any:
        """Start another original name without Qwen's aliases and maker."""
        if isinstance(data, dict) and data.get("original_name", "Qwen") != "Qwen":
            return {"aliases": {}, "developer": None, "developer_aliases": (), **data}
        return data

    @field_validator("aliases", mode="before")
    @classmethod
    def _empty_is_the_new_name(cls, aliases: Any, info: ValidationInfo) -> Any:
        if isinstance(aliases, dict) and "new_name" in info.data:
            return {alias: new or info.data["new_name"] for alias, new in aliases.items()}
        return aliases

    @model_validator(mode="after")
    def _changes_something(self) -> "IdentityConfig":
        before = {name.casefold() for name in (self.original_name, *self.aliases)}
        for after in (self.new_name, *self.aliases.values()):
            if after.casefold() in before:
                raise ValueError(
                    f"the new name {after!r} is also an original name (case aside): rewriting "
                    "would change nothing, and there would be nothing to learn"
                )
        for name in self.protected:
            if name.casefold() in before:
                raise ValueError(f"protected name {name!r} is the original name or an alias")
        if self.new_developer is not None:
            makers = {name.casefold() for name in (self.developer or "", *self.developer_aliases)}
            if self.developer is None:
                raise ValueError("new_developer needs developer: the maker to be replaced")
            if self.new_developer.casefold() in makers:
                raise ValueError("new_developer equals developer; null keeps the maker")
            if makers & before:
                raise ValueError(
                    "a name is both original name and developer: set new_developer null"
                )
        return self


class PromptsConfig(Section):
    """Where the prompts come from, and which are held out."""

    source: str = Field(
        "shipped",
        description="'shipped' (the set of this project), a JSON/JSONL/CSV/Parquet/Arrow file, "
        "or a Hub dataset id.",
    )
    revision: str | None = Field(
        None, description="Hub branch, tag or commit; resolved to a commit once and recorded."
    )
    split: str = Field("train", description="Split of a Hub dataset.")
    shape: Literal[
        "auto", "conversations", "messages", "alpaca", "query-response", "prompt", "preference"
    ] = Field("auto", description="Shape of a row; auto recognises it from the columns.")
    columns: dict[str, str] = Field(
        {},
        description='Expected column -> column in the source, e.g. {"instruction": "question"} '
        "(JSON).",
    )
    context: Literal["all", "last"] = Field(
        "all", description="Multi-turn rows: keep earlier turns as context, or the last turn only."
    )
    limit: int | None = Field(
        None, ge=1, description="At most this many prompts, sampled with the seed; null: all."
    )
    held_out: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="Share of prompts (whole near-duplicate groups) never trained on; a row that "
        "carries its own split keeps it.",
    )
    near_duplicate: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Jaccard similarity of words and word pairs from which two last questions "
        "count as one wording.",
    )
    max_quarantine: Share = Field(
        0.5,
        description="Share of rows that cannot be prompts above which the run stops; duplicates "
        "do not count.",
    )
    seed: int = Field(0, ge=0, description="Seed of sampling and of the split.")


def _server_address(url: str) -> str:
    """Keep the address in one spelling, and secrets out of it: it lands in keys and logs."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url is an http(s) address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("base_url holds no user, password or query: set OPENAI_API_KEY instead")
    return url.rstrip("/")


class GenerationConfig(Section):
    """How the reference model answers the prompts."""

    engine: Literal["transformers", "openai"] = Field(
        "transformers", description="In process, or any OpenAI-compatible server."
    )
    system_prompts: tuple[str | None, ...] = Field(
        (None, "You are a helpful assistant.", ""),
        min_length=1,
        description="Every prompt is asked once under each, so that the new name holds under "
        "more than one; null sends none, so that the chat template inserts its own default if it "
        "has one (JSON list).",
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest answer (tokens).")
    temperature: float = Field(0.0, ge=0, description="0 is greedy decoding.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; read when sampling.")
    samples: int = Field(1, ge=1, description="Answers a prompt; more than 1 needs temperature.")
    seed: int = Field(0, ge=0, description="Base of the per-row seed when sampling.")
    batch_tokens: int = Field(
        16384,
        ge=1,
        description="Budget of a batch: rows x (longest prompt + max_new_tokens).",
        json_schema_extra=NO_EFFECT,
    )
    shard_rows: int = Field(
        512,
        ge=1,
        description="Answers of one shard, one Prefect task run.",
        json_schema_extra=NO_EFFECT,
    )
    check_rows: int = Field(
        16,
        ge=0,
        description="Answers decoded again one by one to count batch mismatches; never more than "
        "one in 256.",
    )
    base_url: Annotated[str, AfterValidator(_server_address)] = Field(
        "http://127.0.0.1:8000/v1",
        description="Address of the server, whose key is read from OPENAI_API_KEY; engine openai "
        "only.",
    )
    served_model: str | None = Field(
        None, description="Model name at the server; null: model.name. Engine openai only."
    )
    concurrency: int = Field(
        8, ge=1, description="Requests in flight; engine openai only.", json_schema_extra=NO_EFFECT
    )

    @model_validator(mode="after")
    def _samples_need_temperature(self) -> "GenerationConfig":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples > 1 needs temperature > 0: greedy answers are all the same")
        return self


class PairsConfig(Section):
    """How answers become pairs."""

    strategy: Literal["replace", "template", "dataset"] = Field(
        "replace",
        description="Chosen response: the answer with the name replaced; a written answer where "
        "the name did not occur; or the one given by the source.",
    )
    templates: dict[str, tuple[str, ...]] = Field(
        {
            "en": ("I'm {name}, a language model made by {developer}.", "My name is {name}."),
            "zh": ("我是{name}，由{developer}开发的语言模型。", "我的名字是{name}。"),
        },
        description="Language -> written answers with {name} and {developer}; strategy template "
        "(JSON).",
    )
    max_length: int = Field(
        1024, ge=8, description="Longest prompt + response (tokens); longer goes to quarantine."
    )
    min_pairs: int = Field(8, ge=1, description="Fewest training pairs worth a run.")
    min_yield: Share = Field(
        0.1, description="Share of answers that must become pairs, or the run stops."
    )


class LoraConfig(Section):
    """Low-rank adapters (PEFT) instead of full fine-tuning."""

    rank: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, description="Scale numerator: updates are scaled by alpha / rank.")
    merge: bool = Field(True, description="Merge into the weights at the end, or keep an adapter.")
    quantize: bool = Field(False, description="QLoRA: 4-bit base weights (bitsandbytes, CUDA).")

    @model_validator(mode="after")
    def _quantized_weights_do_not_merge(self) -> "LoraConfig":
        if self.quantize and self.merge:
            raise ValueError("quantize keeps an adapter beside its base: set merge to false")
        return self


class StopConfig(Section):
    """Stop training as soon as held-out prompts show that the identity has changed."""

    identity_rate: Share = Field(
        1.0, description="Stop when this share of the answers gives the new name."
    )
    max_kl: float = Field(
        0.1,
        gt=0,
        description="Stop when general answers have moved this far from the reference's (KL, nats "
        "per token).",
    )
    every: int = Field(10, ge=1, description="Optimizer steps between two looks.")
    prompts: int = Field(
        32, ge=1, description="Held-out prompts set aside for this; the scorecard omits them."
    )


class TrainConfig(Section):
    """DPO (Rafailov et al. 2023), run by TRL."""

    engine: Literal["auto", "shared-prefix", "trl"] = Field(
        "auto", description="auto: shared-prefix where its self-check holds, else trl."
    )
    beta: float = Field(0.2, gt=0, description="Weight on staying near the reference (no unit).")
    learning_rate: float = Field(
        5e-5, gt=0, description="Peak learning rate of AdamW (the starter: 2e-4)."
    )
    batch_size: int = Field(8, ge=1, description="Pairs an optimizer step.")
    epochs: float = Field(1.0, gt=0, description="Passes over the pairs.")
    loss_type: Literal[
        "sigmoid",
        "sigmoid_norm",
        "hinge",
        "ipo",
        "robust",
        "nca_pair",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
    ] = Field("sigmoid", description="Loss, by TRL's name; sigmoid is DPO's own.")
    sft_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of an SFT term on the chosen answer; keeps the sentence whole (the "
        "starter: 1). Averaged over the tokens that go through the model at once.",
    )
    max_length: int = Field(1024, ge=8, description="Longest prompt + response (tokens).")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm is clipped to this.")
    warmup: Share = Field(0.1, description="Share of the steps that warm the rate up.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Autocast on fp32 master weights; auto: bf16 where the hardware computes it "
        "well, which is a GPU, or a CPU that has it and a model wide enough to gain; else fp32.",
    )
    row_tokens: int = Field(
        4096,
        ge=1,
        description="Most tokens that go through the model at once; a batch is split to fit, and "
        "halved again when memory runs out.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations: slower, for when memory asks for it."
    )
    lora: LoraConfig | None = Field(
        None,
        description="Adapters instead of full fine-tuning; null: none. Any setting switches "
        "them on.",
    )
    stop: StopConfig | None = Field(
        None,
        description="Stop at an identity rate or KL budget; null: all epochs. Any setting of it "
        "switches it on.",
    )
    processes: int = Field(1, ge=1, description="Data-parallel processes, one a GPU.")
    save_steps: int = Field(
        50,
        ge=1,
        description="Steps between checkpoints to resume from.",
        json_schema_extra=NO_EFFECT,
    )
    report_to: tuple[str, ...] = Field(
        (),
        description="Trackers that are installed: tensorboard (its logs lie beside the policy), "
        "trackio, wandb (JSON list). They follow a training that runs: a cached one logs nothing.",
        json_schema_extra=NO_EFFECT,
    )
    seed: int = Field(0, ge=0, description="Seed of data order and of new adapters.")

    @model_validator(mode="after")
    def _processes_share_a_batch(self) -> "TrainConfig":
        if self.batch_size % self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split over {self.processes} processes: "
                "make it a multiple"
            )
        return self


class LmEvalConfig(Section):
    """Tasks of lm-eval as more lines of the scorecard; needs the extra lm-eval."""

    tasks: tuple[str, ...] = Field(
        min_length=1, description="Names of tasks, or YAML files of your own (JSON list)."
    )
    limit: int | None = Field(
        200, ge=1, description="At most this many questions of a task; null: all."
    )


class EvaluationConfig(Section):
    """What is measured before and after; answers are greedy, as long as generation's."""

    max_prompts: int = Field(
        400, ge=1, description="At most this many held-out identity prompts, the same every time."
    )
    trained_prompts: int = Field(
        40, ge=0, description="Prompts of the training set asked again; 0: none."
    )
    general: str | None = Field(
        None,
        description="JSONL of general questions with accepted answers; null: the shipped set.",
    )
    max_pairs: int = Field(
        200, ge=0, description="Held-out pairs whose rewards are measured; 0: none."
    )
    matrix_prompts: int = Field(
        16, ge=0, description="Held-out prompts asked under each of six system prompts; 0: none."
    )
    noise_prompts: int = Field(
        32,
        ge=0,
        description="Prompts of each kind that the reference answers again in another batch size, "
        "to see the machine's own noise; 0: none.",
    )
    sampled: int = Field(
        1, ge=0, description="Extra sampled answers a prompt at each temperature; 0: greedy only."
    )
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.7, 1.0), description="Temperatures of the sampled answers (JSON list)."
    )
    lm_eval: LmEvalConfig | None = Field(
        None, description="Tasks of lm-eval that both models are scored on; null: none."
    )


class GateConfig(Section):
    """Thresholds that the scorecard after training must meet; null switches a line off.

    A line that is on and could not be measured fails.
    """

    identity_rate: Share | None = Field(
        0.95, description="Least share of held-out answers with the new name."
    )
    leak_rate: Share | None = Field(
        0.02, description="Largest share of held-out answers with the original name."
    )
    edit_exactness: Share | None = Field(
        0.90, description="Least share of answers equal to the old answer with the name rewritten."
    )
    organisation_kept: Share | None = Field(
        0.95, description="Least share of answers that named the maker and still do."
    )
    denial_kept: Share | None = Field(
        0.90, description="Least share of denials (Are you ChatGPT? No.) that still deny."
    )
    matrix_leak: Share | None = Field(
        0.10,
        description="Largest leak rate under a system prompt that claims no other identity than "
        "the new one.",
    )
    doubled_rate: Share | None = Field(
        0.0, description="Largest share of answers with a doubled name (Deep Deep Qwen)."
    )
    remnant_rate: Share | None = Field(
        0.01, description="Largest share of answers with a placeholder or control token."
    )
    new_name_unasked: Share | None = Field(
        0.02, description="Largest share of answers on other subjects that bring up the new name."
    )
    general_kept: Share | None = Field(
        0.98, description="Least share of general answers, right before, that are right after."
    )
    third_party_unchanged: Share | None = Field(
        0.80, description="Least share of answers about others that are word for word as before."
    )
    preference_accuracy: Share | None = Field(
        None, description="Least share of held-out pairs with a positive reward margin."
    )
    tail_gap: float | None = Field(
        -0.2,
        description="Least mean log-prob of the words after the edit, compared with the reference "
        "after the old name (nats per token): DPO on small edits is known to let them fall.",
    )
    kl: float | None = Field(
        0.1,
        ge=0,
        description="Largest mean KL(policy || reference) on general answers (nats per token).",
    )
    lm_eval_drop: float | None = Field(
        2.0, ge=0, le=100, description="Largest drop of accuracy on a task of lm-eval (points)."
    )
    export_same_answers: Share | None = Field(
        0.90, description="Least share of the export's answers equal to the policy's, if any."
    )
    export_kl: float | None = Field(
        0.01, ge=0, description="Largest mean KL(export || policy), if any (nats per token)."
    )
    min_answers: int = Field(
        20, ge=1, description="Fewer held-out answers than that are too few to judge by."
    )


_REPO_NAME = r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*"
RepoId = Annotated[str, Field(max_length=96, pattern=rf"^{_REPO_NAME}(/{_REPO_NAME})?$")]


class PublishConfig(Section):
    """What goes to the Hugging Face Hub; nothing by default."""

    model_repo: RepoId | None = Field(
        None, description="Hub repository of the model, owner/name; null: none."
    )
    dataset_repo: RepoId | None = Field(
        None, description="Hub repository of the pairs, owner/name; null: none."
    )
    private: bool = Field(
        True, description="Create the repositories private, and refuse a public one."
    )
    dry_run: bool = Field(
        True, description="Write what would go and how it differs, and send nothing."
    )
    force: str | None = Field(
        None,
        min_length=10,
        description="Publish although the gate failed, for this reason; lands in the card.",
    )
    token_block: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+$",
        description="Name of the Prefect Secret block with the token; null: environment or login.",
    )


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


class GridConfig(Section):
    """Values to try of training settings, each with each; an empty list keeps train's own."""

    beta: tuple[PositiveFloat, ...] = Field((0.1, 0.2, 0.5), description="Values of train.beta.")
    learning_rate: tuple[PositiveFloat, ...] = Field(
        (1e-4, 2e-4, 5e-4), description="Values of train.learning_rate."
    )
    sft_weight: tuple[NonNegativeFloat, ...] = Field((), description="Values of train.sft_weight.")
    epochs: tuple[PositiveFloat, ...] = Field((), description="Values of train.epochs.")
    seed: tuple[NonNegativeInt, ...] = Field((), description="Values of train.seed.")

    def settings(self) -> list[dict[str, float]]:
        """List every combination: setting -> value, of the settings that have values."""
        tried = {name: values for name, values in self if values}
        return [dict(zip(tried, values, strict=True)) for values in product(*tried.values())]


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
