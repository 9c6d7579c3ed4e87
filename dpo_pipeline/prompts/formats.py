"""File formats: each reader yields a file's rows as they are, one at a time."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.quarantine import Unreadable
from dpo_pipeline.prompts.split import SPLITS

BATCH = 1024  # rows read at once
LARGEST = 1 << 30  # bytes that they may take
_WRAPPERS = ("data", "rows", "examples")
_ROWS = {*SPLITS, *_WRAPPERS}  # keys under which a JSON object holds rows
_LONGEST_CELL = 2**31 - 1  # characters of a CSV cell
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _parse(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable("broken_row", f"{where} is not JSON: {error}", text)


def _json_rows(path: Path) -> Iterator[tuple[int, object]]:
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
        for number, line in enumerate(file):
            if line.strip():
                yield number, _as_row(_parse(line, f"line {number + 1}"))


def _csv_rows(path: Path) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(_LONGEST_CELL)
    lines: list[str] = []  # of the row being read

    def kept(file: Iterable[str]) -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.DictReader(kept(file), delimiter=delimiter, strict=True)
        try:
            names = Counter(filter(None, rows.fieldnames or ()))
        except csv.Error as error:
            raise DataError(
                f"{path}: line 1 is no header: {error}; close the quote, or double it if it is "
                "part of a name"
            ) from error
        if twice := [name for name, n in names.items() if n > 1]:
            raise DataError(f"{path} has more than one column {twice[0]!r}; rename one")
        for number in count():
            lines.clear()
            first, row, wrong = rows.reader.line_num + 1, None, ""
            try:
                if (row := next(rows, None)) is None:
                    return
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(
                        f"{path}: the quote that opens in line {_open_quote(lines, first)} is "
                        "never closed; close it, or double it if it is part of the text"
                    ) from error
                wrong = f"lines {first} to {rows.reader.line_num}: {error}"
            if row and None in row:
                wrong = f"line {rows.reader.line_num} has more cells than the header"
            yield number, Unreadable("broken_row", wrong, "".join(lines)) if wrong else row


def _open_quote(lines: Iterable[str], first: int) -> int:
    """Return the number of the line whose quote stays open; a doubled quote opens none."""
    counts = (line.replace('""', "").count('"') for line in lines)
    quotes = [number for number, found in enumerate(counts, first) for _ in range(found)]
    return (quotes[::2] or [first])[-1]


def batch_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[object]:
    """Yield the rows of record batches; a text that is no Unicode makes its own row unreadable."""
    for batch in batches:
        _validate(batch)
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError as error:
            if batch.num_rows > 1:
                yield from batch_rows(batch.slice(i, 1) for i in range(batch.num_rows))
            else:
                yield Unreadable("invalid_text", str(error), repr(error.object))


def _validate(batch: pa.RecordBatch) -> None:
    """Refuse values that point out of their buffers: reading them would end the process.

    Text that is no Unicode passes: its row alone is refused when it is read.
    """
    batch.validate()
    if batch.nbytes > LARGEST:
        raise pa.ArrowInvalid(f"{batch.num_rows} rows take {batch.nbytes:,} bytes unpacked")
    for column in batch.columns:
        column.cast(_as_bytes(column.type)).validate(full=True)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """Return a type with its texts as bytes, which need not be Unicode."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_as_bytes(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_as_bytes(kind.value_type)))
    return kind


def _check_size(file: pq.ParquetFile, path: Path) -> None:
    groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
    if (largest := max((g.total_byte_size for g in groups), default=0)) > LARGEST:
        raise DataError(
            f"{path}: a row group of it takes {largest:,} bytes unpacked, and at most {LARGEST:,} "
            "are read at once; write it in smaller row groups"
        )


def _columnar_rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                _check_size(file, path)
                yield from enumerate(batch_rows(file.iter_batches(BATCH)))
            return
        with pa.memory_map(str(path)) as buffer:
            if buffer.read(6) == b"ARROW1":
                file = pa.ipc.open_file(buffer)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                buffer.seek(max(0, buffer.size() - len(_ARROW_END)))
                if buffer.read() != _ARROW_END:  # a cut stream reads as a shorter one
                    raise DataError(f"{path} has no end mark: it is cut off, or no Arrow stream")
                buffer.seek(0)
                batches = pa.ipc.open_stream(buffer)
            yield from enumerate(batch_rows(batches))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix}: {error}") from error


READERS = {
    ".json": _json_rows,
    **dict.fromkeys((".jsonl", ".ndjson"), _jsonl_rows),
    **dict.fromkeys((".csv", ".tsv"), _csv_rows),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), _columnar_rows),
}
