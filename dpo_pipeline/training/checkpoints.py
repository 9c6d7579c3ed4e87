"""Checkpoints that can be trusted: sealed when whole, passed over when not."""

import hashlib
import json
import logging
from pathlib import Path

log = logging.getLogger("dpo_pipeline.training")

SEAL = "complete.json"  # written last: the digest of every file


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, with the digest of each of its files."""
    partial = checkpoint / f"{SEAL}.part"
    partial.write_text(json.dumps(_digests(checkpoint)))
    partial.replace(checkpoint / SEAL)


def last_good(folder: Path) -> Path | None:
    """Find the newest checkpoint that is whole; None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))
    for checkpoint in found:
        mark = checkpoint / SEAL
        if mark.is_file() and json.loads(mark.read_text()) == _digests(checkpoint):
            return checkpoint
        log.warning("%s is not whole; trying an older one", checkpoint.name)
    return None


def _digests(checkpoint: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(checkpoint.iterdir()):
        if not path.name.startswith(SEAL):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
