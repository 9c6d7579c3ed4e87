"""Content-addressed artifacts: written whole or not at all, verified before they are trusted.

An artifact is a folder `objects/<stage>/<key>` with its files and, written last, a manifest
of their sha256. It is built in a temporary folder beside it and renamed into place. A reader
verifies every byte; what fails is moved to `aside/` and built again. A kernel lock per key
makes two runs at once safe and dies with its holder.
"""

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.access import strange
from dpo_pipeline.store.digests import digest_of, file_digest
from dpo_pipeline.store.files import explained, sync, write_whole
from dpo_pipeline.store.keys import KeyParts
from dpo_pipeline.store.records import Record

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LARGEST = 1 << 24  # bytes of a manifest

Stats = TypeVar("Stats", bound=Record)


class Artifact(BaseModel, Generic[Stats]):
    """What stages hand each other in place of the data: where it lies and what it is."""

    model_config = ConfigDict(frozen=True)

    stage: str  # that made it
    key: str  # digest of everything it depends on
    digest: str  # of its content: file names and their sha256
    path: Path  # its folder
    # Counts and facts that its stage reported. Where they have `unfinished` and it is not 0, some
    # rows are worth another try: the artifact is not reused.
    stats: Stats
    seconds: float  # that building it took


Build = Callable[[Path, Path], Stats]


class Manifest(BaseModel):
    """What manifest.json holds beside its own digest."""

    format: Literal[2]  # of it and of what is in it; the first version wrote none
    stage: str
    key: str
    digest: str
    stats: dict[str, JsonValue]
    seconds: float
    built_at: str
    parts: KeyParts
    files: dict[str, dict[str, str | int]]


class Store:
    """Artifacts under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, stage: str, key: str) -> Path:
        """Return the folder of an artifact, built or not."""
        return self.root / "objects" / stage / key

    def get(self, stage: str, key: str, kind: type[Stats]) -> Artifact[Stats] | None:
        """Return a verified artifact, or None.

        One that does not verify is moved to `aside/` with a warning that says why; one that
        another version of this project wrote stays until the new one takes its place.
        """
        path = self.path(stage, key)
        try:
            with explained(path, "read"):
                if not path.is_dir():
                    return None
                body = verify(path)
            if body.key != key:
                raise DamagedError("the manifest is of another key")
            found = dict(body) | {"path": path}
            return Artifact[kind].model_validate(found)  # type: ignore[valid-type]
        except DamagedError as damage:
            self._set_aside(path, str(damage))
            return None
        except (OtherVersionError, ValidationError):
            logger.info("%s: %s is of another version; building anew", stage, path.name)
            return None

    def get_or_build(
        self,
        stage: str,
        parts: KeyParts,
        build: Build[Stats],
        kind: type[Stats],
        *,
        refresh: bool = False,
    ) -> tuple[Artifact[Stats], bool]:
        """Return the artifact of these key parts, building it if need be.

        Args:
            stage: Name of the stage.
            parts: Parts of its key (`keys.stage_parts`).
            build: Writes the files into its first argument, an empty folder, and returns the
                stats. Its second argument is a scratch folder that survives a crash (for
                checkpoints) and goes once the artifact is whole.
            kind: The record that the stats are.
            refresh: Build even if a good artifact exists.
        Returns:
            The artifact, and whether it was built now.
        Raises:
            StoreError: The disk is full or not writable; nothing half-written remains.
        """
        key = digest_of(parts)[:32]
        if not refresh and (found := self._reusable(stage, key, kind)):
            return found, False
        with self.hold(), self.lock(stage, key):
            # Another run may have built it while this one waited for the lock.
            if not refresh and (found := self._reusable(stage, key, kind)):
                return found, False
            self._build(stage, key, parts, build)
            if built := self.get(stage, key, kind):
                return built, True
        raise StoreError(
            f"{stage}: the artifact just written under {self.path(stage, key)} does not read back "
            "as written; check the disk"
        )

    def _reusable(self, stage: str, key: str, kind: type[Stats]) -> Artifact[Stats] | None:
        found = self.get(stage, key, kind)
        return None if found and bool(getattr(found.stats, "unfinished", False)) else found

    def latest_parts(self, stage: str) -> KeyParts | None:
        """Return the key parts of the stage's newest artifact, to explain a miss."""
        manifests = (self.root / "objects" / stage).glob(f"*/{MANIFEST}")
        for path in sorted(manifests, key=lambda p: p.stat().st_mtime, reverse=True):
            try:
                return read_manifest(path).parts
            except (DamagedError, OtherVersionError):
                continue
        return None

    def _build(self, stage: str, key: str, parts: KeyParts, build: Build[Stats]) -> None:
        final = self.path(stage, key)
        temp = self.root / "tmp" / f"{stage}-{key}"
        work = self.root / "work" / f"{stage}-{key}"
        old = self.root / "tmp" / f"old-{stage}-{key}"
        # Whoever left these folders held the lock that this run holds now: they are orphans.
        _drop(temp, old)
        try:
            with explained(f"what {stage} makes in {self.root}"):
                temp.mkdir(parents=True)
                work.mkdir(parents=True, exist_ok=True)
                final.parent.mkdir(parents=True, exist_ok=True)
                started = time.monotonic()
                stats = build(temp, work)
                files = _hash_files(temp)
                body = Manifest(
                    format=2,
                    stage=stage,
                    key=key,
                    digest=digest_of({name: entry["sha256"] for name, entry in files.items()}),
                    stats=stats.model_dump(mode="json"),
                    seconds=round(time.monotonic() - started, 3),
                    built_at=datetime.now(UTC).isoformat(timespec="seconds"),
                    parts=parts,
                    files=files,
                ).model_dump()
                manifest = {"sha256": digest_of(body), "body": body}
                write_whole(temp / MANIFEST, json.dumps(manifest, indent=1))
                if final.exists():  # deleted in its place it would be half there for a while
                    final.rename(old)
                temp.rename(final)
                sync(final.parent)
        finally:
            _drop(temp, old)
        _drop(work)

    def hold(self, *, alone: bool = False) -> BinaryIO:
        """Keep what lies here from being collected, until the file returned is closed.

        Many may hold a store at once; who collects holds it alone.

        Raises:
            StoreError: `alone` is asked for, and a run is using the store.
        """
        path = self.root / "locks" / "store"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("wb")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            handle.close()
            raise StoreError(f"{self.root}: a run is using it; try again when it is over") from None
        return handle

    def remains(self) -> list[Path]:
        """Return what processes that died left half-written, or had done with.

        It is that only while this process holds the store alone.
        """
        left = [folder for folder in (self.root / "tmp").glob("*") if self._is_idle(folder)]
        left += [
            folder
            for folder in (self.root / "work").glob("*-*")
            if self.path(*_named(folder)).is_dir() and self._is_idle(folder)
        ]
        shared = (self.root / name for name in ("ledger", "references", "runs"))
        return left + [part for folder in shared for part in folder.rglob(".*.part")]

    def _is_idle(self, folder: Path) -> bool:
        try:
            with self.lock(*_named(folder), wait=False):
                return True
        except BlockingIOError:
            return False

    def sweep(self) -> None:
        """Drop what remains of processes that died, unless a run is using the store."""
        with suppress(OSError), self.hold(alone=True):
            for path in self.remains():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def lock(self, stage: str, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold a key for this process; where another does, wait or raise BlockingIOError."""
        path = self.root / "locks" / f"{stage}-{key}"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                logger.info("%s: another run is building it; waiting", stage)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = self.root / "aside" / f"{path.parent.name}-{path.name}-{time.time_ns()}"
        with explained(aside):
            aside.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.rename(aside)
            except FileNotFoundError:
                return  # another run set it aside first
        logger.warning(
            "%s: the cached artifact is not what was written (%s); set aside in %s",
            path.parent.name, reason, aside,
        )  # fmt: skip


def _named(folder: Path) -> tuple[str, str]:
    """Return the stage and key that a folder under tmp/ or work/ is named by."""
    stage, _, key = folder.name.removeprefix("old-").rpartition("-")
    return stage, key


def _drop(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


class DamagedError(Exception):
    """An artifact is not what was written."""


class OtherVersionError(Exception):
    """An artifact is whole, and written by another version of this project."""


def verify(folder: Path) -> Manifest:
    """Read every byte of an artifact, and return its manifest.

    Raises:
        DamagedError: It is not what was written, or somebody else wrote it.
        OtherVersionError: Another version of this project wrote it.
    """
    held = [folder, *folder.rglob("*")]
    for path in held:
        if strange(path, folder.parents[2]):
            raise DamagedError(f"{path.name} is another user's")
        if path.is_symlink():
            raise DamagedError(f"{path.name} is a link")
    body = read_manifest(folder / MANIFEST)
    present = {str(path.relative_to(folder)) for path in held if path.is_file()} - {MANIFEST}
    for name, entry in body.files.items():
        if name not in present:
            raise DamagedError(f"{name} is missing")
        if file_digest(folder / name) != entry["sha256"]:
            raise DamagedError(f"{name} has changed")
    if extra := present - body.files.keys():
        raise DamagedError(f"{min(extra)} is not in the manifest")
    return body


def read_manifest(path: Path) -> Manifest:
    """Read a manifest that holds what its own digest says.

    Raises:
        DamagedError, OtherVersionError: As `verify`.
    """
    try:
        with path.open("rb") as file:
            manifest = json.loads(file.read(LARGEST))
        content, whole = manifest["body"], digest_of(manifest["body"]) == manifest["sha256"]
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError(f"{MANIFEST} cannot be read") from None
    if not whole:
        raise DamagedError(f"{MANIFEST} has changed")
    try:
        return Manifest.model_validate(content)
    except ValidationError:
        raise OtherVersionError from None


def _hash_files(folder: Path) -> dict[str, dict[str, str | int]]:
    files: dict[str, dict[str, str | int]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"{path.name}: an artifact holds files, not links; copy the file")
        sync(path)
        if path.is_file():
            name = str(path.relative_to(folder))
            files[name] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    return files
