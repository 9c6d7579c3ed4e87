"""Why a row does not become a prompt, and how any row is refused."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa

from dpo_pipeline.store.text import CONTROL, escaped

# Reason code of the quarantine -> what it means.
REASONS = {
    "broken_row": "the row cannot be parsed",
    "too_large": "the row is longer, or nested deeper, than any that is read",
    "wrong_type": "a field is missing or of another type",
    "no_human_turn": "nobody asks anything",
    "empty_prompt": "a turn is blank",
    "invalid_text": "the text is not valid Unicode",
    "control_token": "the text holds a token that forges a role or an end",
    "placeholder": "a placeholder cannot be filled",
    "unknown_split": "the row names a split that is neither train nor held out",
    "duplicate": "the same questions came before",
    "near_duplicate_of_held_out": "worded like a prompt that is held out",
}

LISTED = 5  # rows that a message names of each reason; the quarantine has all
LONGEST = 1 << 18  # characters of a row: those of 60,000 tokens
KEPT = 10_000  # characters of a row that the quarantine shows
_DEEPEST = 20  # lists and objects within one another

_TEXTS = dict.fromkeys(("reason", "detail", "row"), pa.string())
QUARANTINE = pa.schema({"source_row": pa.int64()} | _TEXTS)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is there, and cannot be read."""

    reason: str
    detail: str
    text: str = ""


class Refused(Exception):
    """A row, of prompts or of pairs, that goes to the quarantine: a code of REASONS, and why."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail

    def record(self, row: object) -> dict[str, str]:
        """Return the columns of the quarantine that tell why, and of which row."""
        if isinstance(row, Unreadable):
            text = row.text
        else:
            text = json.dumps(row, ensure_ascii=False, default=str)
        return {"reason": self.reason, "detail": escaped(self.detail), "row": escaped(text[:KEPT])}


def too_long(start: str) -> Unreadable:
    """Stand for a row that is longer than any that is read; its start tells which."""
    return Unreadable("too_large", f"over {LONGEST:,} characters", start[:KEPT])


def bounded(row: object) -> object:
    """Return a row as it is, or what stands for one that is too large."""
    size = 0
    for depth, level in enumerate(_levels(row)):
        size += sum(len(value) if isinstance(value, str) else 1 for value in level)
        if size > LONGEST:
            return too_long(max((v for v in level if isinstance(v, str)), key=len, default=""))
        if depth > _DEEPEST:
            return Unreadable("too_large", f"nested over {_DEEPEST} deep")
    return row


def texts(row: object) -> Iterator[str]:
    """Yield the texts of a row, however deep, keys included."""
    return (value for level in _levels(row) for value in level if isinstance(value, str))


def _levels(row: object) -> Iterator[list[object]]:
    level = [row]
    while level:
        yield level
        level = list(chain.from_iterable(map(_within, level)))


def _within(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return chain(value.keys(), value.values())
    return value if isinstance(value, list) else ()


def name_rows(rows: Collection[int]) -> str:
    """Name the first of some rows of a source by their numbers."""
    first = ", ".join(map(str, sorted(rows)[:LISTED]))
    return f"row {first}, ..." if len(rows) > LISTED else f"row {first}"


def checked_text(text: str) -> str:
    """Return the text as it is, if a model may read it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("invalid_text", f"not valid Unicode at {error.start}") from error
    if found := CONTROL.search(text):
        raise Refused("control_token", f"{found.group()!r} would forge a role or an end")
    return text
