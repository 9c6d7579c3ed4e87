"""File formats: each reader yields a file's rows as they are, one at a time."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import IO

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.apart import rows_apart
from dpo_pipeline.prompts.quarantine import LONGEST, Unreadable, too_long
from dpo_pipeline.prompts.split import SPLITS
from dpo_pipeline.store.text import bounded_lines

LARGEST_JSON = 1 << 27  # bytes of a JSON file, which is read at once
_WRAPPERS = ("data", "rows", "examples")
_ROWS = {*SPLITS, *_WRAPPERS}  # keys under which a JSON object holds rows


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable("broken_row", f"{where} is not JSON: {error}", text)


def _json_rows(path: Path) -> Iterator[tuple[int, object]]:
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise DataError(
            f"{path} has {size:,} bytes, and a JSON file is read at once, so at most "
            f"{LARGEST_JSON:,}: write a row a line and name it .jsonl, which is read row by row"
        )
    # Invalid bytes become lone surrogates, so that their rows alone are refused.
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    data = _parse(text, path.name)
    if isinstance(data, Unreadable) and "Extra data" in data.detail:
        yield from _jsonl_rows(path)
        return
    if isinstance(data, Unreadable) and text.strip():
        raise DataError(f"{data.detail}; expected a list of rows")
    if isinstance(data, dict):
        data = _rows_of_object(data, path)
    if not isinstance(data, list | Unreadable):
        raise DataError(f"{path} holds {type(data).__name__} {data!r:.60}; expected a list of rows")
    yield from enumerate(map(_as_row, data if isinstance(data, list) else []))


def _as_row(value: object) -> object:
    """Name the messages of a row that is itself a list of them."""
    return {"messages": value} if value and isinstance(value, list) else value


def _rows_of_object(data: dict[str, object], path: Path) -> list[object]:
    """Return the rows of all splits that an object holds, each with its split; or itself."""
    lists = {key: value for key, value in data.items() if isinstance(value, list)}
    if not _ROWS & lists.keys():
        return [data]
    if others := [key for key in sorted(lists.keys() - _ROWS) if dict in map(type, lists[key])]:
        raise DataError(
            f"{path} holds rows under {others[0]!r}, which is neither a split nor one of "
            f"{', '.join(_WRAPPERS)}; rename it to one of {', '.join(SPLITS)}, or take it out"
        )
    return [
        {"split": key, **row} if key in SPLITS and isinstance(row, dict) else row
        for key, rows in lists.items()
        for row in rows
    ]


def _jsonl_rows(path: Path) -> Iterator[tuple[int, object]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, (line, whole) in enumerate(bounded_lines(file, LONGEST)):
            if not whole:
                yield number, too_long(line)
            elif line.strip():
                yield number, _as_row(_parse(line, f"line {number + 1}"))


class _Lines(Iterator[str]):
    """The lines of a CSV file, of which a row takes one or more."""

    def __init__(self, file: IO[str]) -> None:
        self._lines = bounded_lines(file, LONGEST)
        self.count = 0
        self.begin_row()

    def begin_row(self) -> None:
        self.row, self._room = list[str](), LONGEST

    def __next__(self) -> str:
        line, whole = next(self._lines)
        self.row.append(line)
        self.count += 1
        self._room -= len(line)
        if not whole or self._room < 0:
            raise _TooLongError
        return line


class _TooLongError(csv.Error):
    """A row of CSV is longer than any that is read."""


def _csv_rows(path: Path) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(LONGEST)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.DictReader(lines := _Lines(file), delimiter=delimiter, strict=True)
        _check_header(rows, path)
        for number in count():
            lines.begin_row()
            first, row, wrong = lines.count + 1, None, ""
            try:
                if (row := next(rows, None)) is None:
                    return
            except csv.Error as error:
                too_large = isinstance(error, _TooLongError)
                if "unexpected end" in str(error) or (too_large and len(lines.row) > 1):
                    raise DataError(
                        f"{path}: the quote that opens in line {_open_quote(lines.row, first)} is "
                        f"never closed, or not within {LONGEST:,} characters; close it, or double "
                        "it if it is part of the text"
                    ) from error
                if too_large:
                    yield number, too_long(lines.row[0])
                    continue
                wrong = f"lines {first} to {lines.count}: {error}"
            if row and None in row:
                wrong = f"line {lines.count} has more cells than the header"
            yield number, Unreadable("broken_row", wrong, "".join(lines.row)) if wrong else row


def _check_header(rows: "csv.DictReader[str]", path: Path) -> None:
    try:
        names = Counter(filter(None, rows.fieldnames or ()))
    except csv.Error as error:
        why = str(error) or f"over {LONGEST:,} characters"
        raise DataError(
            f"{path}: line 1 is no header: {why}; close the quote, or double it if it is "
            "part of a name"
        ) from error
    if twice := [name for name, n in names.items() if n > 1]:
        raise DataError(f"{path} has more than one column {twice[0]!r}; rename one")


def _open_quote(lines: Iterable[str], first: int) -> int:
    """Return the number of the line whose quote stays open; a doubled quote opens none."""
    counts = (line.replace('""', "").count('"') for line in lines)
    quotes = [number for number, found in enumerate(counts, first) for _ in range(found)]
    return (quotes[::2] or [first])[-1]


def _columnar_rows(path: Path) -> Iterator[tuple[int, object]]:
    yield from enumerate(rows_apart("file", str(path)))


READERS = {
    ".json": _json_rows,
    **dict.fromkeys((".jsonl", ".ndjson"), _jsonl_rows),
    **dict.fromkeys((".csv", ".tsv"), _csv_rows),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), _columnar_rows),
}
