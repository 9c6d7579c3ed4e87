"""Settings of the reference model."""

from typing import Literal

from pydantic import Field

from dpo_pipeline.store.settings import NO_EFFECT, Section

Precision = Literal["auto", "float32", "bfloat16"]


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
    dtype: Precision = Field(
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
