"""Rows read in a process of their own, which has so much memory and no more.

What a small Parquet or Arrow file unpacks to is known when it is unpacked, and one with wrong
offsets may end the process that follows them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts import columnar
from dpo_pipeline.prompts.quarantine import KEPT, LONGEST, Unreadable, too_long
from dpo_pipeline.store.text import bounded_lines

ROOM = 4 << 30  # bytes that the process may take
_WIDEST = 6  # bytes of a character in JSON


def rows_apart(reader: str, *source: str) -> Iterator[object]:
    """Yield the rows of a reader of `columnar.py`.

    Args:
        reader: Its name among READERS there.
        source: What it is given.

    Raises:
        DataError: As the reader; or its process ran out of memory or died.
    """
    package = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    # The usual allocator takes memory in advance.
    env = {**os.environ, "PYTHONPATH": paths, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    limits = (str(os.getpid()), str(ROOM))
    command = [sys.executable, "-m", columnar.__name__, *limits, reader, *source]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet, env=env
    ) as child:
        try:
            assert child.stdout is not None
            for line, whole in bounded_lines(child.stdout, _WIDEST * LONGEST):
                yield _row(line) if whole else too_long(line[:KEPT].decode("utf-8", "ignore"))
            code = child.wait()
        finally:
            child.kill()
    if code:
        raise DataError(
            f"{source[0]} ends the process that reads it (code {code}): its offsets or sizes are "
            "wrong; make it anew"
        )


def _row(line: bytes) -> object:
    kind, value = json.loads(line)
    if kind == "error":
        raise DataError(value)
    return Unreadable("invalid_text", *value) if kind == "no text" else value
