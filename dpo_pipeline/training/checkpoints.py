"""Checkpoints that can be trusted: sealed when whole, passed over when not.

Neither transformers nor safetensors tell a checkpoint that was cut short, or whose bytes have
changed, from a whole one: docs/spikes.md.
"""

import json
import logging
from pathlib import Path

from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.files import write_whole

logger = logging.getLogger(__name__)

SEAL = "complete.json"  # written last: the digest of every file


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete."""
    write_whole(checkpoint / SEAL, _digests(checkpoint))


def last_good(folder: Path) -> Path | None:
    """Find the newest checkpoint that is whole; None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))
    for checkpoint in found:
        sealed = checkpoint / SEAL
        if sealed.is_file() and sealed.read_bytes() == _digests(checkpoint).encode():
            return checkpoint
        logger.warning("%s is not whole; trying an older one", checkpoint.name)
    return None


def _digests(checkpoint: Path) -> str:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    return json.dumps({str(path.relative_to(checkpoint)): file_digest(path) for path in files})
