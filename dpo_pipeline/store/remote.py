"""Files on object storage, and the local cache folders that are mirrored there.

Nothing here knows what lies in the files. A cache folder has a mark with the address of its
remote, so that whoever holds a path in it, in whatever process, can bring or send what lies there;
of any other path `mirror`, `publish` and `prune` leave everything as it is.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.access import strange
from dpo_pipeline.store.files import appearing_whole, write_whole

logger = logging.getLogger(__name__)

MARK = ".remote"  # file of a cache folder: the address of what it is a cache of
SHARED = ("ledger", "references", "runs", "work")  # folders of a cache that are mirrored
# Of a large file S3 takes so many parts (50 MB) at once, and all of them are in memory.
OPTIONS: dict[str, dict[str, Any]] = {"s3": {"max_concurrency": 4}, "file": {"auto_mkdir": True}}
_TRIES = 5  # of a conditional write that collides with another one


class Remote:
    """Files by name under an address such as s3://bucket/prefix; credentials are the cloud's."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.scheme = self.address.partition("://")[0]
        import fsspec

        # A listing that was kept would hide what another machine wrote.
        options = {"use_listings_cache": False, **OPTIONS.get(self.scheme, {})}
        self._fs, self._base = fsspec.url_to_fs(self.address, **options)

    def check(self) -> None:
        """Try to write where there is something already, and warn if the remote lets it happen.

        Raises:
            StoreError: The remote cannot be reached or written.
        """
        # The first call of a new home succeeds, and only that.
        if self.create("store.json", b'{"format": 1}') and self.create("store.json", b"{}"):
            logger.warning(
                "%s has no conditional writes: of two workers that make the same artifact at the "
                "same moment, the second may take the place of the first", self.address,
            )  # fmt: skip

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None where there is none."""
        with suppress(FileNotFoundError), self._asked(FileNotFoundError):
            content: bytes = self._fs.cat_file(self._at(name))
            return content
        return None

    def create(self, name: str, content: bytes) -> bool:
        """Write a small file where there is none, whole or not at all; tell whether it was so."""
        for tries_left in reversed(range(_TRIES)):
            try:
                with self._asked(FileExistsError):
                    self._create(self._at(name), content)
                return True
            except FileExistsError:
                return False
            except StoreError as error:
                if self.read(name) is not None:
                    return False  # not every server says so
                # Two writers in the same moment: S3 may refuse both.
                if "conflict" not in str(error).lower() or not tries_left:
                    raise
                time.sleep(1)
        raise AssertionError

    def _create(self, path: str, content: bytes) -> None:
        if self.scheme == "file":
            whole = f"{path}.{uuid.uuid4().hex}.part"
            self._fs.pipe_file(whole, content)
            try:
                self._fs.link(whole, path)
            finally:
                self._fs.rm_file(whole)
        else:
            self._fs.pipe_file(path, content, mode="create")

    def sizes(self, name: str) -> dict[str, int]:
        """List the files in a folder, or the file itself: name -> bytes."""
        with self._asked():
            found = self._fs.find(self._at(name), detail=True)
        start = len(self._base) + 1
        return {path[start:]: entry["size"] for path, entry in found.items()}

    def send(self, path: Path, name: str) -> None:
        """Write a file, in parts if it is large; it is there when this returns."""
        with self._asked():
            self._fs.put_file(str(path), self._at(name))

    def bring(self, name: str, path: Path) -> None:
        """Copy a file to this machine, where it appears whole.

        Raises:
            FileNotFoundError: There is none of this name.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing_whole(path) as partial, self._asked(FileNotFoundError):
            self._fs.get_file(self._at(name), str(partial))

    def remove(self, *names: str) -> None:
        """Delete files; one that is gone already is no matter."""
        for name in names:
            with suppress(FileNotFoundError), self._asked(FileNotFoundError):
                self._fs.rm_file(self._at(name))

    def move(self, name: str, to: str) -> None:
        """Move a file; one that is gone already is no matter."""
        with suppress(FileNotFoundError), self._asked(FileNotFoundError):
            self._fs.mv(self._at(name), self._at(to))

    def end_uploads(self, name: str) -> None:
        """Drop what uploads into a folder left that were cut short; only S3 keeps such parts."""
        if self.scheme != "s3":
            return
        bucket, _, prefix = self._at(name).partition("/")
        with self._asked():
            for upload in self._fs.list_multipart_uploads(bucket):
                if upload["Key"].startswith(f"{prefix}/"):
                    what = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._fs.call_s3("abort_multipart_upload", Bucket=bucket, **what)

    def _at(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _asked(self, *expected: type[OSError]) -> Iterator[None]:
        """Turn what a cloud's client raises into one error that says where and what to do."""
        passed: tuple[type[Exception], ...] = (StoreError, *expected)
        try:
            yield
        except passed:
            raise
        except Exception as error:  # each cloud has a family of its own
            raise StoreError(
                f"{self.address}: {type(error).__name__}: {error}; check the address, the "
                "credentials that this machine has for it and the space on its disk, and run "
                "again: what was made is kept"
            ) from error


@cache
def remote(address: str) -> Remote:
    """Return the remote of an address, the same for all of a process."""
    return Remote(address)


def mark(folder: Path, address: str) -> None:
    """Make a folder the cache of a remote."""
    if not (folder / MARK).is_file():
        write_whole(folder / MARK, address)


def mirror(path: Path) -> None:
    """Have a file or folder of a cache hold the same here and there; of two, the longer counts.

    Raises:
        StoreError: The remote cannot be reached.
    """
    if place := _place(path):
        there, root, name = place
        sizes, ours = there.sizes(name), _sizes(root / name, root)
        for other in sizes.keys() | ours.keys():
            if sizes.get(other, -1) > ours.get(other, -1):
                with suppress(FileNotFoundError):  # whoever wrote it has removed it
                    there.bring(other, root / other)
            elif ours[other] > sizes.get(other, -1):
                there.send(root / other, other)
        for file in ours:
            with suppress(FileNotFoundError):
                os.utime(root / file)  # as used now


def publish(path: Path) -> None:
    """Send a file or folder of a cache to its remote, whatever lies there.

    Raises:
        StoreError: The remote cannot be reached.
    """
    if place := _place(path):
        there, root, name = place
        for file in _sizes(root / name, root):
            there.send(root / file, file)


def prune(path: Path) -> None:
    """Remove from the remote what lies no longer in a folder of its cache.

    Raises:
        StoreError: The remote cannot be reached.
    """
    if place := _place(path):
        there, root, name = place
        there.remove(*(there.sizes(name).keys() - _sizes(root / name, root)))


def _place(path: Path) -> tuple[Remote, Path, str] | None:
    """Find the remote of a path in a cache, the cache and the path's name in it."""
    for root in path.absolute().parents:
        if (root / MARK).is_file() and not strange(root / MARK, root):
            name = path.absolute().relative_to(root).as_posix()
            # What a stage writes for itself alone stays here.
            shared = name.partition("/")[0] in SHARED
            return (remote((root / MARK).read_text()), root, name) if shared else None
    return None


def _sizes(path: Path, root: Path) -> dict[str, int]:
    files = [path] if path.is_file() else path.rglob("*")
    return {
        file.relative_to(root).as_posix(): file.stat().st_size
        for file in files
        if file.is_file() and not file.name.endswith(".part")
    }
