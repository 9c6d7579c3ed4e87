"""Content-addressed artifacts: written whole or not at all, verified before they are trusted.

An artifact is a folder `objects/<stage>/<key>` with its files and, written last, a manifest
of their sha256. It is built in a temporary folder beside it and renamed into place. A reader
verifies every byte; what fails is moved to `aside/` and built again. A kernel lock per key
makes two runs at once safe and dies with its holder.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.digests import digest_of, file_digest
from dpo_pipeline.store.keys import KeyParts

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class Artifact(BaseModel):
    """What tasks hand each other in place of the data: where it lies and what it is.

    Attributes:
        stage: Stage that made it.
        key: Digest of everything it depends on.
        digest: Digest of its content: file names and their sha256.
        path: Its folder.
        stats: Counts and facts its stage reported, JSON-able. Where `unfinished` is not 0, some
            rows are worth another try: the artifact is not reused.
        seconds: Time it took to build (seconds).
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    key: str
    digest: str
    path: Path
    stats: dict[str, Any]
    seconds: float

    def identity(self) -> dict[str, str]:
        """Return what a child's key holds of this parent."""
        return {"key": self.key, "digest": self.digest}


class Store:
    """Artifacts under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, stage: str, key: str) -> Path:
        """Return the folder of an artifact, built or not."""
        return self.root / "objects" / stage / key

    def get(self, stage: str, key: str) -> Artifact | None:
        """Return a verified artifact, or None.

        One that does not verify is moved to `aside/` with a warning that says why.
        """
        path = self.path(stage, key)
        if not path.is_dir():
            return None
        problem, body = _verify(path)
        if problem or body["key"] != key:
            self._set_aside(path, problem or "the manifest is of another key")
            return None
        return Artifact(path=path, **{k: body[k] for k in Artifact.model_fields if k != "path"})

    def get_or_build(
        self,
        stage: str,
        parts: KeyParts,
        build: Callable[[Path, Path], dict[str, Any]],
        *,
        refresh: bool = False,
    ) -> tuple[Artifact, bool]:
        """Return the artifact of these key parts, building it if need be.

        Args:
            stage: Name of the stage.
            parts: Parts of its key (`keys.stage_parts`).
            build: Writes the files into its first argument, an empty folder, and returns the
                stats. Its second argument is a scratch folder that survives a crash (for
                checkpoints) and goes once the artifact is whole.
            refresh: Build even if a good artifact exists.
        Returns:
            The artifact, and whether it was built now.
        Raises:
            StoreError: The disk is full or not writable; nothing half-written remains.
        """
        key = digest_of(parts)[:32]
        if not refresh and (found := self._reusable(stage, key)):
            return found, False
        with self._lock(stage, key):
            # Another run may have built it while this one waited for the lock.
            if not refresh and (found := self._reusable(stage, key)):
                return found, False
            self._build(stage, key, parts, build)
            built = self.get(stage, key)
            if built is None:
                raise StoreError(
                    f"{stage}: the artifact just written under {self.path(stage, key)} does not "
                    "read back as written; check the disk"
                )
            return built, True

    def _reusable(self, stage: str, key: str) -> Artifact | None:
        found = self.get(stage, key)
        return None if found and found.stats.get("unfinished") else found

    def latest_parts(self, stage: str) -> KeyParts | None:
        """Return the key parts of the stage's newest artifact, to explain a miss."""
        manifests = (self.root / "objects" / stage).glob(f"*/{MANIFEST}")
        for path in sorted(manifests, key=lambda p: p.stat().st_mtime, reverse=True):
            problem, body = _read_manifest(path)
            if not problem:
                parts: KeyParts = body["parts"]
                return parts
        return None

    def _build(
        self, stage: str, key: str, parts: KeyParts, build: Callable[[Path, Path], dict[str, Any]]
    ) -> None:
        final = self.path(stage, key)
        temp = self.root / "tmp" / f"{stage}-{key}"
        work = self.root / "work" / f"{stage}-{key}"
        # Whoever left this folder held the lock that this run holds now: it is an orphan.
        shutil.rmtree(temp, ignore_errors=True)
        try:
            temp.mkdir(parents=True)
            work.mkdir(parents=True, exist_ok=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            stats = build(temp, work)
            files = _hash_files(temp)
            body = {
                "stage": stage,
                "key": key,
                "digest": digest_of({name: entry["sha256"] for name, entry in files.items()}),
                "stats": stats,
                "seconds": round(time.monotonic() - started, 3),
                "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "parts": parts,
                "files": files,
            }
            _write_synced(
                temp / MANIFEST, json.dumps({"sha256": digest_of(body), "body": body}, indent=1)
            )
            _sync_folders(temp)
            if final.exists():
                shutil.rmtree(final)
            temp.rename(final)
            _sync(final.parent)
        except OSError as error:
            if isinstance(error, StoreError) or error.errno is None:
                raise
            raise StoreError(
                f"{stage}: cannot write under {self.root}: {error.strerror} "
                f"({error.filename or temp}); free some space or set another store"
            ) from error
        finally:
            shutil.rmtree(temp, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)

    @contextmanager
    def _lock(self, stage: str, key: str) -> Iterator[None]:
        path = self.root / "locks" / f"{stage}-{key}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s: another run is building it; waiting", stage)
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = self.root / "aside" / f"{path.parent.name}-{path.name}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return  # another run set it aside first
        logger.warning(
            "%s: the cached artifact is not what was written (%s); set aside in %s",
            path.parent.name, reason, aside,
        )  # fmt: skip


def _verify(folder: Path) -> tuple[str | None, dict[str, Any]]:
    problem, body = _read_manifest(folder / MANIFEST)
    if problem:
        return problem, {}
    present = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
    for name, entry in body["files"].items():
        if name not in present:
            return f"{name} is missing", {}
        if file_digest(folder / name) != entry["sha256"]:
            return f"{name} has changed", {}
    if extra := present - body["files"].keys():
        return f"{min(extra)} is not in the manifest", {}
    return None, body


def _read_manifest(path: Path) -> tuple[str | None, dict[str, Any]]:
    try:
        manifest = json.loads(path.read_bytes())
        body: dict[str, Any] = manifest["body"]
        expected = manifest["sha256"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing", {}
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read", {}
    if digest_of(body) != expected:
        return f"{MANIFEST} has changed", {}
    return None, body


def _hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"{path.name}: an artifact holds files, not links; copy the file")
        if path.is_file():
            _sync(path)
            name = str(path.relative_to(folder))
            files[name] = {"sha256": file_digest(path), "bytes": path.stat().st_size}
    return files


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folders(folder: Path) -> None:
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        _sync(path)
