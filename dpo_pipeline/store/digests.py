"""Digests of values and of files."""

import hashlib
import json
import time
from functools import lru_cache
from pathlib import Path

GRAIN = 2 * 10**9  # nanoseconds; no file system tells times more coarsely
Stamp = tuple[int, ...]  # what the file system says of a file


def canonical(value: object) -> bytes:
    """Serialize a JSON-able value to bytes that depend on the value alone."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def digest_of(value: object) -> str:
    """Digest a JSON-able value (sha256, hex)."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """Digest the content of a file (sha256, hex)."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stamp(file: Path) -> Stamp:
    """Tell which file a name leads to, by which link, its size, and when any of it changed."""
    found, link = file.stat(), file.lstat()
    kept = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return *kept, link.st_ino, link.st_ctime_ns


def known_digest(file: Path) -> str:
    """Digest the content of a file, once a process as long as its stamp is the same."""
    seen = stamp(file)
    if time.time_ns() - file.stat().st_ctime_ns < GRAIN:  # another write may leave the same stamp
        return file_digest(file)
    return _digest(file.absolute(), seen)


@lru_cache(maxsize=4096)
def _digest(file: Path, _: Stamp) -> str:
    return file_digest(file)
