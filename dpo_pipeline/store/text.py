"""Text compared, shortened and escaped for people and for files."""

import re
from collections.abc import Iterator, Sequence
from typing import IO, AnyStr

# Text that a tokenizer of a chat model may read as a role or as an end.
CONTROL = re.compile(
    r"<[|｜][^<>\n]{1,60}[|｜]>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_\w+>"
    r"|<(?:bos|eos|pad|unk)>"
)


def common_start(left: Sequence[object], right: Sequence[object]) -> int:
    """Return the length of what two texts, or two lists, start with in common."""
    shorter = min(len(left), len(right))
    return next((i for i in range(shorter) if left[i] != right[i]), shorter)


def excerpt(text: str, length: int = 120) -> str:
    """Shorten a text to one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def escaped(text: str) -> str:
    """Escape what UTF-8, and so Parquet, cannot hold, the way JSON does."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def bounded_lines(file: IO[AnyStr], longest: int) -> Iterator[tuple[AnyStr, bool]]:
    """Yield the lines of a file, and of each whether it is whole: a longer one is cut.

    Args:
        file: Text or bytes.
        longest: Characters or bytes of a line, its end included; no more are in memory.
    """
    while line := file.readline(longest):
        rest, whole = line, True
        while rest and rest[-1:] not in ("\n", "\r", b"\n", b"\r"):
            rest = file.readline(longest)
            whole = whole and not rest
        yield line, whole
