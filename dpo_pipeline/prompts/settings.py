"""Settings of where prompts come from and which are held out."""

from typing import Annotated, Literal

from pydantic import Field

from dpo_pipeline.store.settings import AtLeastOne, Count, NoEffect, PositiveShare, Section, Share

Shape = Literal[
    "auto", "conversations", "messages", "alpaca", "query-response", "prompt", "preference"
]


class PromptsConfig(Section):
    """Where the prompts come from, and which are held out."""

    source: NoEffect[str] = "shipped"
    """'shipped' (the set of this project), a JSON/JSONL/CSV/Parquet/Arrow file, or a Hub dataset
    id."""
    revision: NoEffect[str | None] = None
    """Hub branch, tag or commit; resolved to a commit once and recorded."""
    split: str = "train"
    """Split of a Hub dataset."""
    shape: Shape = "auto"
    """Shape of a row; auto recognises it from the columns."""
    columns: dict[str, str] = Field({})
    """Expected column -> column in the source, e.g. {"instruction": "question"} (JSON)."""
    context: Literal["all", "last"] = "all"
    """Multi-turn rows: keep earlier turns as context, or the last turn only."""
    languages: tuple[str, ...] | None = None
    """Languages that are kept, as en and zh; null: all (JSON list)."""
    limit: AtLeastOne | None = None
    """At most this many prompts, sampled with the seed; null: all."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of prompts (whole near-duplicate groups) never trained on; a row that carries its own
    split keeps it."""
    near_duplicate: PositiveShare = 0.8
    """Jaccard similarity of words and word pairs from which two last questions count as one
    wording."""
    max_quarantine: Share = 0.5
    """Share of rows that cannot be prompts above which the run stops; duplicates do not count."""
    retention: NoEffect[str | None] = None
    """JSONL of general prompts whose answers training holds; null: the shipped set."""
    seed: Count = 0
    """Seed of sampling and of the split."""
