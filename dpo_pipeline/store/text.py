"""Text shortened and escaped for people and for files."""


def excerpt(text: str, length: int = 120) -> str:
    """Shorten a text to one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def escaped(text: str) -> str:
    """Escape what UTF-8, and so Parquet, cannot hold, the way JSON does."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
