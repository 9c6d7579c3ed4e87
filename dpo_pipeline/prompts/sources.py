"""Where prompts come from: resolved to exact bytes once, then read row by row.

JSON, JSON Lines, CSV, Parquet and Arrow files are read as they are, without a cast: a row that
cannot be read becomes an `Unreadable`, and the rows around it go on.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.errors import DataError
from dpo_pipeline.hub.client import ask, resolve_revision
from dpo_pipeline.prompts.settings import PromptsConfig

if TYPE_CHECKING:
    import pyarrow as pa

SHIPPED = Path(__file__).parent / "data" / "identity.jsonl"
# Split that a row or a file names -> the side it means.
SPLITS = {"train": "train"} | dict.fromkeys(
    ("held_out", "test", "validation", "valid", "val", "dev", "eval"), "held_out"
)
_WRAPPERS = ("data", "rows", "examples")
_ROWS = {*SPLITS, *_WRAPPERS}  # keys under which a JSON object holds rows
_BATCH = 1024  # rows read at once
_LONGEST_CELL = 2**31 - 1  # characters of a CSV cell
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class SourceRef(BaseModel):
    """Exactly which rows are read.

    Attributes:
        kind: Set of this project, a local file, or a Hub dataset.
        location: "shipped", the file's full path, or the Hub id.
        revision: Commit of a Hub dataset; null for files.
        digest: SHA-256 of the file's bytes, or the commit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["shipped", "file", "hub"]
    location: str
    revision: str | None = None
    digest: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is there, and cannot be read."""

    reason: str
    detail: str
    text: str = ""


def resolve_source(config: PromptsConfig) -> SourceRef:
    """Find the source and fix its exact version.

    Costs one hash of a file, or one call to the Hub; a full commit id costs no call.

    Raises:
        DataError: The source is missing, private, gated, of an unknown format or out of reach.
    """
    if config.source == "shipped":
        return SourceRef(kind="shipped", location="shipped", digest=_sha256(SHIPPED))
    path = Path(config.source).expanduser()
    known = path.suffix.lower() in _READERS
    if path.is_file():
        if not known:
            raise DataError(
                f"{path} has no known format; expected one of {', '.join(_READERS)}. Rename it."
            )
        return SourceRef(kind="file", location=str(path.resolve()), digest=_sha256(path))
    if known or path.is_dir() or config.source.startswith((".", "/", "~")):
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(
            f"prompts.source {config.source!r} {what} (seen from {Path.cwd()}); name one file"
        )
    return _resolve_hub(config.source, config.revision)


def _resolve_hub(repo: str, revision: str | None) -> SourceRef:
    if not re.fullmatch(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*", repo):
        raise DataError(f"prompts.source {repo!r} is neither a file nor a Hub id (owner/name)")
    commit = resolve_revision(repo, "dataset", revision)
    return SourceRef(kind="hub", location=repo, revision=commit, digest=commit)


def read_split(value: Any) -> str | None:
    """Return the side of the split that a row names: train, held_out, or null where it is blank.

    Raises:
        ValueError: It names neither.
    """
    name = "" if value is None else str(value).strip().casefold()
    if name and name not in SPLITS:
        raise ValueError(f"split {value!r} is none of {', '.join(SPLITS)}")
    return SPLITS.get(name)


def read_rows(source: SourceRef, split: str) -> Iterator[tuple[int, Any]]:
    """Read a source row by row.

    Args:
        source: As resolved; a file must still hold the same bytes.
        split: Split of a Hub dataset; not read for files.
    Returns:
        Pairs of position (line of a JSON Lines file, else row; from 0) and what stands there,
        of whatever type, or an `Unreadable`.
    Raises:
        DataError: The file changed, is cut off or is not what its name says.
    """
    if source.kind == "hub":
        yield from enumerate(_hub_rows(source, split))
        return
    path = SHIPPED if source.kind == "shipped" else Path(source.location)
    if not path.is_file() or _sha256(path) != source.digest:
        raise DataError(f"{path} changed or went away after it was resolved; start the run again")
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path} is UTF-16; save it as UTF-8")
    yield from _READERS[path.suffix.lower()](path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return Unreadable("broken_row", f"{where} is not JSON: {error}", text)


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    # Invalid bytes become lone surrogates, so that their rows alone are refused.
    text = path.read_bytes().decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    data = _parse(text, path.name)
    if isinstance(data, Unreadable) and "Extra data" in data.detail:
        yield from _jsonl_rows(path)
        return
    if isinstance(data, Unreadable) and text.strip():
        raise DataError(f"{data.detail}; expected a list of rows")
    if isinstance(data, dict):
        data = list(_rows_of_object(data, path)) if _ROWS & _lists(data) else [data]
    if not isinstance(data, list | Unreadable):
        raise DataError(f"{path} holds {type(data).__name__} {data!r:.60}; expected a list of rows")
    yield from enumerate(data if isinstance(data, list) else [])


def _lists(data: dict[str, Any]) -> set[str]:
    return {key for key, value in data.items() if isinstance(value, list)}


def _rows_of_object(data: dict[str, Any], path: Path) -> Iterator[Any]:
    """Yield the rows of all splits that an object holds; each row names its split."""
    others = sorted(_lists(data) - _ROWS)
    if others := [key for key in others if dict in map(type, data[key])]:
        raise DataError(
            f"{path} holds rows under {others[0]!r}, which is neither a split nor one of "
            f"{', '.join(_WRAPPERS)}; rename it to one of {', '.join(SPLITS)}, or take it out"
        )
    for key, rows in data.items():
        for row in rows if key in _lists(data) else ():
            named = key in SPLITS and isinstance(row, dict)
            yield {"split": key, **row} if named else row


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file):
            if line.strip():
                yield number, _parse(line, f"line {number + 1}")


def _csv_rows(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    lines: list[str] = []  # of the row being read

    def kept(file: Iterable[str]) -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.DictReader(kept(file), delimiter=delimiter, strict=True)
        names = Counter(filter(None, rows.fieldnames or ()))
        if twice := [name for name, n in names.items() if n > 1]:
            raise DataError(f"{path} has more than one column {twice[0]!r}; rename one")
        for number in count():
            lines.clear()
            first = rows.reader.line_num + 1
            try:
                row: Any = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(
                        f"{path}: the quote that opens in line {_open_quote(lines, first)} is "
                        "never closed; close it, or double it if it is part of the text"
                    ) from error
                where = f"lines {first} to {rows.reader.line_num}: {error}"
                row = Unreadable("broken_row", where, "".join(lines))
            else:
                if None in row:
                    where = f"line {rows.reader.line_num} has more cells than the header"
                    row = Unreadable("broken_row", where, "".join(lines))
            yield number, row


def _open_quote(lines: Iterable[str], first: int) -> int:
    """Return the number of the line whose quote stays open; a doubled quote opens none."""
    is_open, opened = False, first
    for number, line in enumerate(lines, first):
        for _ in range(line.replace('""', "").count('"')):
            is_open = not is_open
            opened = number if is_open else opened
    return opened


def _batch_rows(batches: Iterable["pa.RecordBatch"]) -> Iterator[Any]:
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = [_one_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
        yield from rows


def _one_row(batch: "pa.RecordBatch") -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return Unreadable("invalid_text", str(error), repr(error.object))


def _columnar_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                yield from enumerate(_batch_rows(file.iter_batches(_BATCH)))
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
            yield from enumerate(_batch_rows(batches))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix}: {error}") from error


def _hub_rows(source: SourceRef, split: str) -> Iterator[Any]:
    from datasets import load_dataset
    from huggingface_hub import HfApi

    where = f"{source.location}@{source.revision}"
    try:
        load = partial(load_dataset, source.location, split=split, revision=source.revision)
        data = ask(load, source.location, "dataset")
    except DataError:
        raise
    except Exception as error:  # a wrong split, a file that is none
        # datasets hides why the Hub refused, so the Hub is asked.
        check = partial(HfApi().auth_check, source.location, repo_type="dataset")
        ask(check, source.location, "dataset")
        raise DataError(
            f"split {split!r} of {where} cannot be loaded ({type(error).__name__}: {error}); check "
            "prompts.split, or download one file of it and name that"
        ) from error
    for table in data.with_format("arrow").iter(_BATCH):
        yield from _batch_rows(table.to_batches())


_READERS = {
    ".json": _json_rows,
    ".jsonl": _jsonl_rows,
    ".ndjson": _jsonl_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _columnar_rows,
    ".arrow": _columnar_rows,
    ".feather": _columnar_rows,
}
