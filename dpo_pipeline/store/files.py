"""Files that are written whole or not at all."""

import errno
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dpo_pipeline.errors import DPOPipelineError, StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BARRED = {errno.EACCES, errno.EPERM, errno.EROFS}
_OF_RUST = re.compile(r"\(os error (\d+)\)")  # in errors of safetensors and tokenizers


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
def explained(
    what: str | Path, doing: str = "write", *also: type[Exception], note: str = ""
) -> Iterator[None]:
    """Turn a failure of the disk into an error that says what, where and what to do.

    Args:
        what: What is written, or read.
        doing: Which of the two.
        also: Errors of a library that does not say what failed.
        note: What else is to be known.

    Raises:
        StoreError: The disk is full or not writable.
    """
    try:
        yield
    except (DPOPipelineError, ConnectionError):
        raise
    except Exception as error:
        number = _number(error)
        if number is None and not isinstance(error, also):
            raise
        said = os.strerror(number) if number else str(error).partition("\n")[0]
        file = getattr(error, "filename", None)
        place = f" ({file})" if file and str(file) != str(what) else ""
        raise StoreError(
            f"cannot {doing} {what}: {said}{place}; {_remedy(number)}, and run again{note}"
        ) from error


def _number(error: Exception) -> int | None:
    """Return the number of an error of the operating system, whoever tells it."""
    if isinstance(error, OSError):
        return error.errno
    found = _OF_RUST.search(str(error))
    return int(found[1]) if found else None


def _remedy(number: int | None) -> str:
    if number in _BARRED:
        return (
            "give yourself the right to read and write there, or set DPO_PIPELINE_HOME to a "
            "folder of your own"
        )
    mended = "free some space" if number in (None, *_FULL) else "see that the disk is in order"
    return f"{mended} or set DPO_PIPELINE_HOME to another disk"
