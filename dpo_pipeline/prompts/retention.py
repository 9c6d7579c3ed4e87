"""Prompts that training holds still, and the small set by which it knows when it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_pipeline.prompts.general import data_file, read_lines
from dpo_pipeline.prompts.shapes import Message

FAMILIES = (
    *("instructions", "knowledge", "greetings", "user_names"),
    *("third_party", "named_things", "citations", "personas"),
)
IDENTITY = ("name", "maker", "both", "are_you", "indirect", "adversarial")
_EXAMPLE = '{"prompt": "What is a lake?", "family": "knowledge", "language": "en"}'


@dataclass(frozen=True)
class RetentionPrompt:
    """A prompt, its messages ending in the user's, and the system prompt that belongs to it."""

    messages: tuple[Message, ...]  # without the system's
    family: str
    language: str
    system: str | None = None  # null: any


def retention_file(path: str | None) -> Path:
    """Return the file of retention prompts: the given one, or the shipped set.

    Raises:
        DataError: There is no such file.
    """
    return data_file(path, "retention.jsonl", "prompts.retention")


def read_retention(path: str | None) -> list[RetentionPrompt]:
    """Read prompts whose answers stay: JSONL of prompt or messages, family, language, system.

    Raises:
        DataError: When a line does not hold them; the message shows one that would.
    """
    return _read(retention_file(path), FAMILIES)


def tuning_file() -> Path:
    """Return the file of prompts that are neither trained on nor held out."""
    return data_file(None, "tuning.jsonl", "the tuning split")


def read_tuning() -> list[RetentionPrompt]:
    """Read the tuning split: identity questions (family in IDENTITY), and prompts to hold still.

    Raises:
        DataError: When a line cannot be read.
    """
    return _read(tuning_file(), IDENTITY + FAMILIES)


def _read(file: Path, families: Sequence[str]) -> list[RetentionPrompt]:
    def read(row: dict[str, object]) -> RetentionPrompt:
        turns = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        if row["family"] not in families:
            raise ValueError(f"family is {row['family']!r}, none of {', '.join(families)}")
        system = row.get("system")
        return RetentionPrompt(
            tuple(_turns(turns)),
            str(row["family"]),
            str(row["language"]),
            None if system is None else str(system),
        )

    return read_lines(file, read, _EXAMPLE)


def _turns(value: object) -> list[Message]:
    """Check that turns alternate, the user's first and last, and that each says something."""
    turns = value if isinstance(value, list) else []
    roles = [turn["role"] for turn in turns]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)] or len(roles) % 2 == 0:
        raise ValueError(f"messages are by {roles}: user and assistant in turn, user first, last")
    if not all(isinstance(t["content"], str) and t["content"].strip() for t in turns):
        raise ValueError("a message is empty")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]
