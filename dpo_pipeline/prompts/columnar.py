"""Rows of Parquet and Arrow, of a file or the Hub: a script that apart.py runs.

It has so much memory and no more, imports little, and tells rows as JSON, one a line.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dpo_pipeline.errors import DataError
from dpo_pipeline.store.processes import bound_memory, die_with_parent

BATCH = 256  # rows unpacked at once
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class NoText(NamedTuple):
    """Stands for a row that holds a text which is no Unicode."""

    detail: str
    text: str


def file_rows(name: str) -> Iterator[object]:
    """Yield the rows of a Parquet or Arrow file.

    Raises:
        DataError: It is none, is cut off, or has wrong offsets or sizes.
    """
    path = Path(name)
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                yield from _rows(file.iter_batches(BATCH))
            return
        with pa.memory_map(name) as buffer:
            if buffer.read(6) == b"ARROW1":
                file = pa.ipc.open_file(buffer)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                buffer.seek(max(0, buffer.size() - len(_ARROW_END)))
                if buffer.read() != _ARROW_END:  # a cut stream reads as a shorter one
                    raise DataError(f"{path} has no end mark: it is cut off, or no Arrow stream")
                buffer.seek(0)
                batches = pa.ipc.open_stream(buffer)
            yield from _rows(batches)
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix}: {error}") from error


def hub_rows(name: str, revision: str, split: str) -> Iterator[object]:
    """Yield the rows of a split of a Hub dataset at one commit.

    Raises:
        DataError: It cannot be loaded.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi

    from dpo_pipeline.hub.client import ask

    try:
        load = partial(load_dataset, name, split=split, revision=revision)
        data = ask(load, name, "dataset")
    except DataError:
        raise
    except Exception as error:  # a wrong split, a file that is none
        if isinstance(error.__cause__ or error, MemoryError):
            raise MemoryError from error
        # datasets hides why the Hub refused, so the Hub is asked.
        check = partial(HfApi().auth_check, name, repo_type="dataset")
        ask(check, name, "dataset")
        raise DataError(
            f"split {split!r} of {name}@{revision} cannot be loaded ({type(error).__name__}: "
            f"{error}); check prompts.split, or download one file of it and name that"
        ) from error
    for table in data.with_format("arrow").iter(BATCH):
        yield from _rows(table.to_batches())


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[object]:
    """Yield the rows of record batches; a text that is no Unicode makes its own row unreadable."""
    for batch in batches:
        _validate(batch)
        for start in range(0, batch.num_rows, BATCH):
            some = batch.slice(start, BATCH)
            try:
                yield from some.to_pylist()
            except UnicodeDecodeError:
                yield from map(_row, (some.slice(i, 1) for i in range(some.num_rows)))


def _row(alone: pa.RecordBatch) -> object:
    try:
        return alone.to_pylist()[0]
    except UnicodeDecodeError as error:
        return NoText(str(error), repr(error.object))


def _validate(batch: pa.RecordBatch) -> None:
    """Refuse values that point out of their buffers: reading them would end the process.

    Text that is no Unicode passes: its row alone is refused when it is read.
    """
    batch.validate()
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


READERS: dict[str, Callable[..., Iterator[object]]] = {"file": file_rows, "hub": hub_rows}


def main(parent: int, room: int, reader: str, *source: str) -> None:
    """Write what a reader yields, one line a row, and last what went wrong if anything did."""
    die_with_parent(parent)
    bound_memory(room)
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # libraries print as well

    def tell(kind: str, value: object) -> None:
        told = json.dumps([kind, value], ensure_ascii=False, default=_typed)
        out.write(told.encode() + b"\n")

    try:
        for row in READERS[reader](*source):
            tell("no text" if isinstance(row, NoText) else "row", row)
    except DataError as error:
        tell("error", str(error))
    except MemoryError:
        tell("error", f"{source[0]} takes over {room >> 20:,} MiB when {BATCH} rows are unpacked: "
             "make it anew with shorter rows, or smaller row groups")  # fmt: skip
    out.flush()


def _typed(value: object) -> dict[str, str]:
    """Show what JSON cannot hold, such as a date, so that it is not taken for a text."""
    return {type(value).__name__: str(value)}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
