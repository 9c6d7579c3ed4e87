"""Parquet files that are written whole or not at all, and read a few rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import DataError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 1000  # rows held at once, and rows of a row group


class Table:
    """A Parquet file under construction: a context manager that takes row after row.

    The file appears under its name when the block ends well. After an error nothing of it
    remains, since closing a Parquet file halfway makes a shorter file that reads as whole.

    Attributes:
        rows: Rows added so far.
    """

    def __init__(self, path: Path, schema: "pa.Schema") -> None:
        self.path, self.schema, self.rows = path, schema, 0
        self._part = path.with_name(path.name + ".part")
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> "Table":
        import pyarrow.parquet as pq

        with self._disk():
            self._writer = pq.ParquetWriter(self._part, self.schema, compression="zstd")
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, a dict with every column of the schema."""
        self.rows += 1
        self._waiting.append(row)
        if len(self._waiting) == ROW_GROUP:
            self._flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            if self._waiting:
                self._flush()
            with self._disk():
                self._writer.close()
                self._part.rename(self.path)
        else:
            self._drop()

    def _flush(self) -> None:
        import pyarrow as pa

        rows = pa.Table.from_pylist(self._waiting, schema=self.schema)
        with self._disk():
            self._writer.write_table(rows, row_group_size=ROW_GROUP)
        self._waiting = []

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._drop()
            raise StoreError(
                f"cannot write {self.path}: {error}; nothing of it was kept: free some space, or "
                "set another store, and run again"
            ) from error

    def _drop(self) -> None:
        self._part.unlink(missing_ok=True)


def messages_type() -> "pa.DataType":
    """Return the type of a column of chat messages."""
    import pyarrow as pa

    return pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


def read_rows(path: Path, required: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, holding one batch of them.

    Args:
        path: The file.
        required: Columns that it must have.
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
        if missing := sorted(set(required) - set(file.schema_arrow.names)):
            raise DataError(
                f"{path} lacks {missing}: found {file.schema_arrow.names}; make it again"
            )
        for batch in file.iter_batches(ROW_GROUP):
            yield from batch.to_pylist()
