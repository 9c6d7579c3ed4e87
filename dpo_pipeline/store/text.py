"""Text compared, shortened and escaped for people and for files."""

from collections.abc import Sequence


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
