"""Why a row does not become a prompt, and how any row is refused."""

import json
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from dpo_pipeline.identity.mentions import CONTROL
from dpo_pipeline.store.text import escaped

# Reason code of the quarantine -> what it means.
REASONS = {
    "broken_row": "the row cannot be parsed",
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
        return {"reason": self.reason, "detail": escaped(self.detail), "row": escaped(text)}


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
