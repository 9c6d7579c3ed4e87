"""Stand-ins until the rooms have their records."""

from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict

from dpo_pipeline.store.records import Record


class Loose(Record):
    """Takes everything."""

    model_config = ConfigDict(frozen=True, extra="allow")

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class PromptStats(Loose):
    """Stand-in."""


class PairStats(Loose):
    """Stand-in."""


class DatasetStats(Loose):
    """Stand-in."""
