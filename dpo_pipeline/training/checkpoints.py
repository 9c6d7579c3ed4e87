"""Checkpoints that can be trusted: sealed when whole, passed over when not."""

import hashlib
import json
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

SEAL = "complete.json"  # written last: the digest of every file


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, with the digest of each of its files."""
    partial = checkpoint / f"{SEAL}.part"
    with partial.open("w") as file:
        json.dump(_digests(checkpoint), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(checkpoint / SEAL)


def last_good(folder: Path) -> Path | None:
    """Find the newest checkpoint that is whole; None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))
    for checkpoint in found:
        if _sealed(checkpoint) == _digests(checkpoint):
            return checkpoint
        logger.warning("%s is not whole; trying an older one", checkpoint.name)
    return None


def _sealed(checkpoint: Path) -> dict[str, str] | None:
    try:
        digests: dict[str, str] = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return None
    return digests


def _digests(checkpoint: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.name.startswith(SEAL):
            with path.open("rb") as file:
                digests[str(path.relative_to(checkpoint))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return digests
