"""Where prompts come from: resolved to exact bytes once, then read row by row.

JSON, JSON Lines, CSV, Parquet and Arrow files are read as they are, without a cast: a row that
cannot be read becomes an `Unreadable`, and the rows around it go on.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dpo_pipeline.errors import DataError
from dpo_pipeline.hub.client import resolve_revision
from dpo_pipeline.prompts.apart import rows_apart
from dpo_pipeline.prompts.formats import READERS
from dpo_pipeline.prompts.quarantine import bounded
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.settings import NoEffect

SHIPPED = Path(__file__).parent / "data" / "identity.jsonl"
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)?[A-Za-z0-9][A-Za-z0-9._-]*")
PEEK = 100  # rows whose columns tell the shape
MOST = 1 << 22  # rows: something of each stays in memory


class Origin(Record):
    """What a source is, told to others: a file by its last part, no path of this machine."""

    kind: Literal["shipped", "file", "hub"]
    name: str
    revision: str | None
    digest: str


class SourceRef(Record):
    """Exactly which rows are read."""

    kind: NoEffect[Literal["shipped", "file", "hub"]]
    location: NoEffect[str]  # "shipped", the file's full path, or the Hub id
    revision: NoEffect[str | None] = None  # commit of a Hub dataset
    digest: str  # SHA-256 of the file's bytes, or the commit

    @property
    def origin(self) -> Origin:
        """What may be told of it."""
        name = Path(self.location).name if self.kind == "file" else self.location
        return Origin(kind=self.kind, name=name, revision=self.revision, digest=self.digest)


def resolve_source(config: PromptsConfig) -> SourceRef:
    """Find the source and fix its exact version.

    Costs one hash of a file, or one call to the Hub; a full commit id costs no call.

    Raises:
        DataError: The source is missing, private, gated, of an unknown format or out of reach.
    """
    if config.source == "shipped":
        return SourceRef(kind="shipped", location="shipped", digest=file_digest(SHIPPED))
    path = Path(config.source).expanduser()
    known = path.suffix.lower() in READERS
    if path.is_file():
        if not known:
            raise DataError(
                f"{path} has no known format; expected one of {', '.join(READERS)}. Rename it."
            )
        return SourceRef(kind="file", location=str(path.resolve()), digest=file_digest(path))
    if known or path.is_dir() or config.source.startswith((".", "/", "~")):
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(
            f"prompts.source {config.source!r} {what} (seen from {Path.cwd()}); name one file"
        )
    if not _HUB_ID.fullmatch(config.source):
        raise DataError(
            f"prompts.source {config.source!r} is neither a file nor a Hub id (owner/name)"
        )
    commit = resolve_revision(config.source, "dataset", config.revision)
    return SourceRef(kind="hub", location=config.source, revision=commit, digest=commit)


def read_source(source: SourceRef, split: str) -> Iterator[tuple[int, object]]:
    """Read a source row by row; the split is that of a Hub dataset.

    Returns:
        Pairs of position (line of a JSON Lines file, else row; from 0) and what stands there,
        of whatever type, or an `Unreadable`.
    Raises:
        DataError: The file changed, is cut off or is not what its name says.
    """
    for position, row in _read(source, split):
        if position >= MOST:
            raise DataError(f"{source.location} has over {MOST:,} rows: name a part of it")
        yield position, bounded(row)


def _read(source: SourceRef, split: str) -> Iterator[tuple[int, object]]:
    if source.kind == "hub":
        yield from enumerate(rows_apart("hub", source.location, str(source.revision), split))
        return
    path = SHIPPED if source.kind == "shipped" else Path(source.location)
    if not path.is_file() or file_digest(path) != source.digest:
        raise DataError(f"{path} changed or went away after it was resolved; start the run again")
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path} is UTF-16; save it as UTF-8")
    yield from READERS[path.suffix.lower()](path)
