"""Faults of a disk as the kernel makes them, for any user: root is held to modes of files too."""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workplace import ROOT

CAPBSET_DROP = 24  # of prctl
OVER_MODES = (1, 2)  # the capabilities DAC_OVERRIDE and DAC_READ_SEARCH


@contextmanager
def full_disk(size: int | None) -> Iterator[None]:
    """Refuse what any file would hold beyond so many bytes, here and in processes started here."""
    before, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        fill_disk(before if size is None else size)
        yield
    finally:
        fill_disk(before)


def fill_disk(size: int) -> None:
    """Leave room for files of so many bytes."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))


@contextmanager
def barred(folder: Path, mode: int = 0o500) -> Iterator[None]:
    """Let nobody write in a folder who runs in `obeying_modes`."""
    before = folder.stat().st_mode
    folder.chmod(mode)
    try:
        yield
    finally:
        folder.chmod(before)


def obeying_modes(*command: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run Python without root's right to read and write whatever the modes of files say."""

    def give_up() -> None:
        for capability in OVER_MODES:
            ctypes.CDLL(None).prctl(CAPBSET_DROP, capability, 0, 0, 0)

    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "PYTHONPATH": paths, **extra},
        preexec_fn=give_up,
        capture_output=True,
        text=True,
    )
