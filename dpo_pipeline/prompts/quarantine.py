"""Why a row does not become a prompt."""

import re

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


# Text that a tokenizer of a chat model may read as a role or as an end.
CONTROL = re.compile(
    r"<[|｜][^<>\n]{1,60}[|｜]>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_\w+>"
    r"|<(?:bos|eos|pad|unk)>"
)


class Refused(Exception):
    """A row that cannot become a prompt: a reason code, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def checked_text(text: str) -> str:
    """Return the text as it is, if a model may read it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused("invalid_text", f"not valid Unicode at {error.start}") from error
    if found := CONTROL.search(text):
        raise Refused("control_token", f"{found.group()!r} would forge a role or an end")
    return text
