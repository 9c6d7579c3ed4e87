"""Settings of where prompts come from and which are held out."""

from typing import Literal

from pydantic import Field

from dpo_pipeline.store.settings import NO_EFFECT, Section, Share


class PromptsConfig(Section):
    """Where the prompts come from, and which are held out."""

    source: str = Field(
        "shipped",
        description="'shipped' (the set of this project), a JSON/JSONL/CSV/Parquet/Arrow file, "
        "or a Hub dataset id.",
    )
    revision: str | None = Field(
        None,
        description="Hub branch, tag or commit; resolved to a commit once and recorded.",
        json_schema_extra=NO_EFFECT,
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
