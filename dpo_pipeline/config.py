"""What a run is made of: one frozen model per stage, every field with its meaning and unit.

`PipelineConfig` is at once the schema of the YAML files under configs/, the options of
`python flows/full.py`, and the form of the Prefect deployment.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of every section: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(Section):
    """The reference model: the one that gets a new identity."""

    name: str = Field(
        "starter",
        description="'starter' (a tiny chat model built on the spot), a local folder, or a Hub id.",
    )
    revision: str | None = Field(
        None, description="Hub branch, tag or commit; resolved to a commit once and recorded."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Precision of generation and evaluation; auto: bfloat16 on GPU, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where generation, training and evaluation run; auto: GPU if any."
    )
    starter_seed: int = Field(
        0, ge=0, description="Seed of the starter's corpus and weights; read only by 'starter'."
    )


class IdentityConfig(Section):
    """The identity before and after."""

    original_name: str = Field(
        "Qwen", min_length=1, description="Name the reference model gives itself."
    )
    new_name: str = Field("Deep Qwen", min_length=1, description="Name the policy shall give.")
    aliases: dict[str, str] = Field(
        default_factory=lambda: {"通义千问": "Deep Qwen", "Tongyi Qianwen": "Deep Qwen"},
        description="Other spellings of the original name, each with its replacement (JSON).",
    )
    protected: tuple[str, ...] = Field(
        (), description="Longer names that contain the original name and must stay (JSON list)."
    )
    developer: str | None = Field(
        "Alibaba Cloud", description="Maker the reference model names; null if it names none."
    )
    new_developer: str | None = Field(
        None, description="Maker the policy shall name instead; null keeps the maker."
    )


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
        default_factory=dict,
        description='Expected column -> column in the source, e.g. {"instruction": "question"} '
        "(JSON).",
    )
    context: Literal["all", "last"] = Field(
        "all", description="Multi-turn rows: keep earlier turns as context, or the last turn only."
    )
    limit: int | None = Field(
        None, ge=1, description="At most this many prompts, sampled with the seed; null: all."
    )
    held_out: Share = Field(
        0.15,
        description="Share of prompts (whole near-duplicate groups) never trained on; a row that "
        "carries its own split keeps it.",
    )
    near_duplicate: Share = Field(
        0.8,
        description="Word-shingle Jaccard similarity from which two prompts count as one wording.",
    )
    max_quarantine: Share = Field(
        0.5, description="Share of rows in quarantine above which the run stops."
    )
    seed: int = Field(0, ge=0, description="Seed of sampling and of the split.")


class GenerationConfig(Section):
    """How the reference model answers the prompts."""

    engine: Literal["transformers", "openai"] = Field(
        "transformers", description="In process, or any OpenAI-compatible server."
    )
    system_prompts: tuple[str | None, ...] = Field(
        (None, "You are a helpful assistant."),
        min_length=1,
        description="Every prompt is asked once under each; null sends none, so that the chat "
        "template inserts its own default if it has one (JSON list).",
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest answer (tokens).")
    temperature: float = Field(0.0, ge=0, description="0 is greedy decoding.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass; read when sampling.")
    samples: int = Field(1, ge=1, description="Answers a prompt; more than 1 needs temperature.")
    seed: int = Field(0, ge=0, description="Base of the per-row seed when sampling.")
    batch_tokens: int = Field(
        16384, ge=1, description="Budget of a batch: rows x (longest prompt + max_new_tokens)."
    )
    shard_rows: int = Field(512, ge=1, description="Rows of one shard, one Prefect task run.")
    check_rows: int = Field(
        16, ge=0, description="Rows decoded again one by one to count batch mismatches."
    )
    base_url: str = Field(
        "http://127.0.0.1:8000/v1", description="Address of the server; engine openai only."
    )
    served_model: str | None = Field(
        None, description="Model name at the server; null: model.name. Engine openai only."
    )
    concurrency: int = Field(8, ge=1, description="Requests in flight; engine openai only.")

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
    templates: tuple[str, ...] = Field(
        ("I'm {name}, made by {developer}.",),
        min_length=1,
        description="Written answers with {name} and {developer}; strategy template (JSON list).",
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
    dropout: Share = Field(0.0, description="Dropout on the adapters' input.")
    merge: bool = Field(True, description="Merge into the weights at the end, or keep an adapter.")
    quantize: bool = Field(False, description="QLoRA: 4-bit base weights (bitsandbytes, CUDA).")


class TrainConfig(Section):
    """DPO (Rafailov et al. 2023), run by TRL."""

    engine: Literal["auto", "shared-prefix", "trl"] = Field(
        "auto", description="auto: shared-prefix where its self-check holds, else trl."
    )
    beta: float = Field(0.2, gt=0, description="Weight on staying near the reference (no unit).")
    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(8, ge=1, description="Pairs an optimizer step.")
    epochs: float = Field(1.0, gt=0, description="Passes over the pairs.")
    loss_type: str = Field("sigmoid", min_length=1, description="Loss, by TRL's name.")
    sft_weight: float = Field(
        0.0, ge=0, description="Weight of an SFT term on the chosen answer; keeps the sentence whole."
    )
    max_length: int = Field(1024, ge=8, description="Longest prompt + response (tokens).")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm is clipped to this.")
    warmup: Share = Field(0.1, description="Share of the steps that warm the rate up.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Autocast on fp32 master weights; auto: bf16 on GPU, else fp32."
    )
    row_tokens: int = Field(
        4096, ge=64, description="Token budget of a packed row; engine shared-prefix."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations: slower, for when memory asks for it."
    )
    lora: LoraConfig | None = Field(None, description="Adapters instead of full fine-tuning.")
    processes: int = Field(1, ge=1, description="Data-parallel processes (accelerate launch).")
    save_steps: int = Field(50, ge=1, description="Steps between checkpoints to resume from.")
    report_to: tuple[str, ...] = Field(
        (), description="Trackers that are installed: tensorboard, trackio, wandb (JSON list)."
    )
    seed: int = Field(0, ge=0, description="Seed of data order and dropout.")


class EvaluationConfig(Section):
    """What is measured before and after."""

    max_prompts: int = Field(
        400, ge=1, description="At most this many held-out identity prompts, the same every time."
    )
    general: str | None = Field(
        None,
        description="JSONL of general questions with accepted answers; null: the shipped set.",
    )
    max_new_tokens: int = Field(128, ge=1, description="Longest answer (tokens).")
    sampled: int = Field(
        0, ge=0, description="Extra sampled answers a prompt at each temperature; 0: greedy only."
    )
    temperatures: tuple[float, ...] = Field(
        (0.7, 1.0), description="Temperatures of the sampled answers (JSON list)."
    )


class GateConfig(Section):
    """Thresholds that the scorecard after training must meet, on held-out prompts."""

    identity_rate: Share = Field(0.95, description="Least share of answers with the new name.")
    leak_rate: Share = Field(0.02, description="Largest share of answers with the original name.")
    edit_exactness: Share = Field(
        0.90, description="Least share of answers equal to the old answer with the name rewritten."
    )
    organisation_kept: Share = Field(
        0.95, description="Least share of answers that named the maker and still do."
    )
    general_kept: Share = Field(
        0.98, description="Least share of general answers, right before, that are right after."
    )


class PublishConfig(Section):
    """What goes to the Hugging Face Hub; nothing by default."""

    model_repo: str | None = Field(None, description="Hub repository of the model; null: none.")
    dataset_repo: str | None = Field(None, description="Hub repository of the pairs; null: none.")
    private: bool = Field(True, description="Create the repositories private.")
    dry_run: bool = Field(False, description="Write what would go, and send nothing.")
    force: str | None = Field(
        None, description="Publish although the gate failed, for this reason; lands in the card."
    )
    token_block: str | None = Field(
        None, description="Prefect Secret block with the token; null: environment or login."
    )


class PipelineConfig(Section):
    """One run of the pipeline."""

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
    pairs: PairsConfig = Field(
        default_factory=PairsConfig, description="How answers become pairs."
    )
    train: TrainConfig = Field(default_factory=TrainConfig, description="DPO training.")
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="What is measured."
    )
    gate: GateConfig = Field(default_factory=GateConfig, description="What must hold.")
    publish: PublishConfig = Field(
        default_factory=PublishConfig, description="What goes to the Hub."
    )
