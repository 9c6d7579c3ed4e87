"""A store on object storage: a bounded cache on this machine, and the remote that holds the truth.

An artifact is built and read in the cache, a folder like that of any store. Published, it is
`objects/<stage>/<key>/manifest.json` and its files in a folder beside it that has the name of the
manifest's digest: they are written first, the manifest last and only where there is none. So a
reader finds all of it or nothing, and of two workers the second takes what the first has made.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from contextlib import suppress
from functools import cache
from io import TextIOWrapper
from pathlib import Path

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.artifacts import (
    MANIFEST,
    Artifact,
    Build,
    DamagedError,
    OtherVersionError,
    Stats,
    Store,
    read_manifest,
)
from dpo_pipeline.store.files import explained
from dpo_pipeline.store.keys import KeyParts
from dpo_pipeline.store.places import address, cache_bound, home
from dpo_pipeline.store.remote import Remote, mark, remote

logger = logging.getLogger(__name__)


def open_store() -> Store:
    """Return the store of `DPO_PIPELINE_HOME`, a folder or an address such as s3://bucket/prefix.

    Raises:
        SettingsError: The scheme is unknown, or the package for it is not installed.
        StoreError: The remote cannot be reached or written.
    """
    there = address()
    return _on_objects(there, home(), cache_bound()) if there else Store(home())


@cache
def _on_objects(there: str, root: Path, bound: float) -> "ObjectStore":
    found = remote(there)
    found.check()
    return ObjectStore(found, root, bound)


class ObjectStore(Store):
    """Artifacts of a remote, those in use under one root folder."""

    def __init__(self, there: Remote, root: Path, bound: float) -> None:
        super().__init__(root)
        self.remote, self.bound = there, bound
        self._used: dict[Path, TextIOWrapper] = {}  # the locks on what this process uses
        self._seen: dict[str, bytes | None] = {}  # manifests of the remote, when last read
        mark(self.root, there.address)

    def get(self, stage: str, key: str, kind: type[Stats]) -> Artifact[Stats] | None:
        """Return a verified artifact, brought here if need be, or None.

        A copy that does not verify is dropped and brought again; what does not verify then is
        moved to `aside/` of the remote, with a warning that says why.
        """
        self._use(stage, key)
        here, name = self.path(stage, key), f"objects/{stage}/{key}"
        manifest = self.remote.read(f"{name}/{MANIFEST}")
        if manifest is None and super().get(stage, key, kind):
            # It was built here by a process that ended before it could publish it.
            self._seen[name] = None
            self._publish(stage, key)
            manifest = self.remote.read(f"{name}/{MANIFEST}")
        self._seen[name] = manifest
        if manifest is None:
            return None
        if _content(here / MANIFEST) == manifest:
            found = super().get(stage, key, kind)
            if found or here.exists():  # or another version wrote it
                return found
        if not self._bring(stage, key, manifest):
            return None
        found = super().get(stage, key, kind)
        if not found and not here.exists():
            self._set_aside_there(stage, key, manifest)
        return found

    def _build(self, stage: str, key: str, parts: KeyParts, build: Build[Stats]) -> None:
        name = f"objects/{stage}/{key}"
        if name not in self._seen:
            self._seen[name] = self.remote.read(f"{name}/{MANIFEST}")
        super()._build(stage, key, parts, build)
        self._publish(stage, key)
        self.remote.remove(*self.remote.sizes(f"work/{stage}-{key}"))
        self._make_room(0)

    def _publish(self, stage: str, key: str) -> None:
        """Send what was built here, unless another worker has published its own meanwhile."""
        here, name = self.path(stage, key), f"objects/{stage}/{key}"
        manifest = (here / MANIFEST).read_bytes()
        folder = f"{name}/{_folder(manifest)}"
        old = self.remote.sizes(name).keys() - {f"{name}/{MANIFEST}"}
        try:
            for file in here.rglob("*"):
                if file.is_file() and file != here / MANIFEST:
                    self.remote.send(file, f"{folder}/{file.relative_to(here).as_posix()}")
        except StoreError:
            # Whoever was first has swept what it found, an upload under way as well.
            if self.remote.read(f"{name}/{MANIFEST}") in (None, self._seen[name]):
                raise
            return
        replaced = self._seen[name]
        if replaced is not None and self.remote.read(f"{name}/{MANIFEST}") == replaced:
            self.remote.remove(f"{name}/{MANIFEST}")
        self.remote.create(f"{name}/{MANIFEST}", manifest)
        if self.remote.read(f"{name}/{MANIFEST}") == manifest:
            # Of uploads that were cut short, of a build that this one replaces.
            self.remote.remove(*(n for n in old if not n.startswith(f"{folder}/")))
            self.remote.end_uploads(name)
        else:
            logger.info("%s: another worker was first; taking its artifact", stage)
            self.remote.remove(*self.remote.sizes(folder))

    def _bring(self, stage: str, key: str, manifest: bytes) -> bool:
        """Copy an artifact here; tell whether there is anything to verify."""
        here, name = self.path(stage, key), f"objects/{stage}/{key}"
        temp = self.root / "tmp" / f"bring-{stage}-{key}"
        with self.lock(f"bring-{stage}", key), explained(here):
            if _content(here / MANIFEST) == manifest:
                return True  # another process on this machine has brought it
            shutil.rmtree(temp, ignore_errors=True)  # of a process that was killed
            temp.mkdir(parents=True)
            (temp / MANIFEST).write_bytes(manifest)
            try:
                files = read_manifest(temp / MANIFEST).files
                self._make_room(sum(int(entry["bytes"]) for entry in files.values()))
                for file in files:
                    if not (temp / file).resolve().is_relative_to(temp.resolve()):
                        raise DamagedError(f"{file} leads out of the artifact")
                    self.remote.bring(f"{name}/{_folder(manifest)}/{file}", temp / file)
            except OtherVersionError:
                logger.info("%s: %s is of another version; building anew", stage, key)
                shutil.rmtree(temp)
                return False
            except (DamagedError, FileNotFoundError):
                pass  # whoever verifies it says what is wrong
            here.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(here, ignore_errors=True)
            temp.rename(here)
        return True

    def _set_aside(self, path: Path, reason: str) -> None:
        logger.warning("%s: the copy here is damaged (%s); dropped", path.parent.name, reason)
        shutil.rmtree(path, ignore_errors=True)

    def _set_aside_there(self, stage: str, key: str, manifest: bytes) -> None:
        name, aside = f"objects/{stage}/{key}", f"aside/{stage}-{key}-{time.time_ns()}"
        if self.remote.read(f"{name}/{MANIFEST}") != manifest:
            return  # another worker set it aside first
        self.remote.move(f"{name}/{MANIFEST}", f"{aside}/{MANIFEST}")
        for file in self.remote.sizes(name):
            self.remote.move(file, f"{aside}/{file.removeprefix(f'{name}/')}")
        self._seen[name] = None
        logger.warning(
            "%s: the artifact is not what was written; set aside in %s/%s",
            stage, self.remote.address, aside,
        )  # fmt: skip

    def _use(self, stage: str, key: str) -> None:
        """Hold an artifact in the cache until this process ends, however it ends."""
        path = self._in_use(self.path(stage, key))
        if path not in self._used:
            with explained(path):
                handle = path.open("w")
            fcntl.flock(handle, fcntl.LOCK_SH)
            self._used[path] = handle
        with suppress(FileNotFoundError):
            os.utime(self.path(stage, key))

    def _in_use(self, path: Path) -> Path:
        lock = self.root / "locks" / f"{path.parent.name}-{path.name}.used"
        with explained(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
        return lock

    def _make_room(self, needed: int) -> None:
        """Drop what was used longest ago and is in the remote, until so many bytes are free."""
        held = [*self.root.glob("objects/*/*"), *self.root.glob("references/*")]
        sizes = {path: _size(path) for path in held}
        over = sum(sizes.values()) + needed - self.bound
        for path in sorted(held, key=lambda p: p.stat().st_mtime):
            if over <= 0:
                return
            with self._in_use(path).open("a") as lock, suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and self._is_published(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    over -= sizes[path]
        if over > 0:
            logger.warning(
                "%s holds %.1f GB more than DPO_PIPELINE_CACHE_GB allows: all of it is in use",
                self.root, over / 1e9,
            )  # fmt: skip

    def _is_published(self, path: Path) -> bool:
        name = path.relative_to(self.root).as_posix()
        if path.is_dir():
            return _content(path / MANIFEST) == self.remote.read(f"{name}/{MANIFEST}")
        return self.remote.sizes(name).get(name) == path.stat().st_size


def _folder(manifest: bytes) -> str:
    """Name the folder of an artifact's files: so no build overwrites another's."""
    return str(json.loads(manifest)["sha256"])[:16]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
