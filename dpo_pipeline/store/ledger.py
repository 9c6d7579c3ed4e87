"""The ledger of answers: append-only, checked line by line, safe for many writers at once.

A context is all that an answer depends on but its request: weights, template, decoding,
precision. Each has a folder of segments, one per writer, and a line is a record with its own
digest. A writer syncs what it appends, so a kill loses what was in flight; a torn or damaged
line is dropped and its answer made again. In the cache of a remote it is sent there as well: a
segment, of bounded size, at every append.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue

from dpo_pipeline.store.access import strange
from dpo_pipeline.store.digests import canonical, digest_of
from dpo_pipeline.store.files import explained, sync, write_whole
from dpo_pipeline.store.remote import mirror, publish
from dpo_pipeline.store.text import bounded_lines

logger = logging.getLogger(__name__)

LONGEST = 1 << 20  # bytes of a segment, about: the next append begins another
LONGEST_LINE = 1 << 25  # bytes: no answer is as long


class Ledger:
    """The records of one context under `root`, and this writer's own segment."""

    def __init__(self, root: Path, context: Mapping[str, JsonValue]) -> None:
        self.context = dict(context)
        self.folder = root / digest_of(self.context)[:32]
        self._segment: BinaryIO | None = None

    def close(self) -> None:
        """Close this writer's segment, if it has one; all that was appended is on disk."""
        if self._segment:
            with suppress(OSError):
                self._segment.close()

    def read(self, wanted: Container[str]) -> dict[str, dict[str, JsonValue]]:
        """Return the records of the wanted keys; of two with one key, either (they are equal)."""
        mirror(self.folder)
        found: dict[str, dict[str, JsonValue]] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            damaged = 0
            if strange(path, self.folder.parents[1]):  # the store
                logger.warning("%s: another user's; what it holds is made again", path.name)
                continue
            with path.open("rb") as segment:
                for line, whole in bounded_lines(segment, LONGEST_LINE):
                    digest, _, body = line.rstrip(b"\n").partition(b" ")
                    start, _, rest = body.partition(b'"key":"')
                    key = rest.partition(b'"')[0].decode(errors="replace")
                    # Every shard reads every segment: what it does not want is not worth a parse.
                    if whole and start == b"{" and key not in wanted:
                        continue
                    if line.endswith(b"\n") and digest == _check(body):
                        record = json.loads(body)
                        found.setdefault(record["key"], record["value"])
                    else:
                        damaged += 1
            if damaged:
                logger.warning("%s: %d damaged lines dropped, made again", path.name, damaged)
        return found

    def append(self, records: Mapping[str, Mapping[str, JsonValue]]) -> None:
        """Write records to this writer's own segment and sync it.

        Raises:
            StoreError: The disk is full or not writable, or the remote not reached; what was
                appended before is safe.
        """
        if not records:
            return
        bodies = [canonical({"key": key, "value": value}) for key, value in records.items()]
        with explained(f"answers under {self.folder}"):
            self._segment = self._segment or self._open()
            self._segment.write(b"".join(_check(body) + b" " + body + b"\n" for body in bodies))
            self._segment.flush()
            os.fsync(self._segment.fileno())
        publish(Path(self._segment.name))
        if self._segment.tell() > LONGEST:
            self._segment.close()
            self._segment = None

    def _open(self) -> BinaryIO:
        # For people: what the folder's name is the digest of.
        text = json.dumps(self.context, indent=1, ensure_ascii=False)
        write_whole(self.folder / "context.json", text)
        publish(self.folder / "context.json")
        segment = (self.folder / f"{uuid.uuid4().hex}.jsonl").open("xb")
        sync(self.folder)
        return segment


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()
