"""Digests of values and of files."""

import hashlib
import json
from pathlib import Path


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
