"""Parquet files of this project: written whole or not at all, read a few rows at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import DataError
from dpo_pipeline.store.files import appearing_whole, explained

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 1000  # rows held at once, and rows of a row group
Row = dict[str, Any]  # column -> value; the schema of the file is its type


@contextmanager
def new_table(path: Path, schema: "pa.Schema") -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Yield a function that adds a row to a new Parquet file, which appears when the block ends.

    After an error nothing remains: a Parquet file closed halfway is shorter and reads as whole.

    Raises:
        StoreError: The disk is full or not writable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Mapping[str, object]] = []

    def add(row: Mapping[str, object]) -> None:
        waiting.append(row)
        if len(waiting) == ROW_GROUP:
            flush()

    def flush() -> None:
        with explained(path):
            writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
        waiting.clear()

    with appearing_whole(path) as partial:
        with explained(path):
            writer = pq.ParquetWriter(partial, schema, compression="zstd")
        yield add
        if waiting:
            flush()
        with explained(path):
            writer.close()


def messages_type() -> "pa.DataType":
    """Return the type of a column of chat messages."""
    import pyarrow as pa

    return pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a Parquet file, all columns or some, holding one batch of them.

    Raises:
        DataError: The file is no Parquet file, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}; make it again") from error
    with file:
        found = file.schema_arrow.names
        if missing := sorted(set(columns or ()) - set(found)):
            raise DataError(f"{path} lacks {missing}: found {found}; make it again")
        for batch in file.iter_batches(ROW_GROUP, columns=columns and list(columns)):
            yield from batch.to_pylist()
