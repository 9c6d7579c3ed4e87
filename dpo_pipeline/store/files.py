"""Files that are written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dpo_pipeline.errors import StoreError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees all of it or, after a crash too, what was there before.

    Args:
        path: The file; its folder is made.
        content: Text (as UTF-8) or bytes.
    Raises:
        StoreError: The disk is full or not writable; nothing half-written remains.
    """
    data = content.encode() if isinstance(content, str) else content
    with appearing_whole(path) as partial, explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which gets its own name when the block ends well.

    After an error nothing of it remains.

    Raises:
        StoreError: The disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield partial
        with explained(path):
            sync(partial)
            partial.replace(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have the disk hold what a file contains, or which files a folder lists."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(what: str | Path) -> Iterator[None]:
    """Turn a failure to write into an error that says what, where and what to do.

    Raises:
        StoreError: The disk is full or not writable.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, StoreError) or error.errno is None:
            raise
        raise StoreError(
            f"cannot write {what}: {error.strerror} ({error.filename or what}); free some space "
            "or set DPO_PIPELINE_HOME to another disk, and run again"
        ) from error
