"""What may be told: text without secrets, in which nothing acts.

This is the one boundary. Errors of this project, log records, what a run says and what a server
answered pass it before a terminal, a log, a database or a file sees them.
"""

import logging
import os
import re
from contextlib import suppress
from typing import Any

HIDDEN = "***"
# How environment variables that hold a secret are named, and what looks like one anywhere.
_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "AUTH_STRING")
_SHORTEST = 8  # characters; a shorter one ("EMPTY", "token") would hide ordinary words
_LOOKS_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[A-Za-z0-9_-]{16,}|(?<=://)[^\s/@:]*:[^\s/]+(?=@)"
)
# What a terminal acts on, what cannot be seen, what turns the writing direction, half characters.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def scrub(text: str, *secrets: str | None) -> str:
    """Hide the secrets given, those of the environment, and whatever looks like one."""
    for secret in sorted({*filter(None, secrets), *_known()}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _LOOKS_SECRET.sub(HIDDEN, text)


def _known() -> set[str]:
    found = (value for name, value in os.environ.items() if name.upper().endswith(_NAMES))
    # One that was pasted over two lines is refused where it is used, and hidden in its parts.
    return {part for value in found for part in value.split() if len(part) >= _SHORTEST}


def visible(text: str) -> str:
    """Spell out characters that act on a terminal, cannot be seen or turn the direction."""
    return _INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def plain(text: str) -> str:
    """Return a text as it may be told."""
    return visible(scrub(text))


def guard_logs() -> None:
    """Have every log record of this process told plainly, whatever handler takes it."""
    make = logging.getLogRecordFactory()

    def guarded(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        with suppress(TypeError, ValueError, KeyError):  # logging itself reports a wrong format
            record.msg, record.args = plain(record.getMessage()), ()
        if record.exc_info and record.exc_info[1]:
            record.exc_text = plain(logging.Formatter().formatException(record.exc_info))
        return record

    if getattr(make, "__module__", "") != __name__:
        logging.setLogRecordFactory(guarded)
