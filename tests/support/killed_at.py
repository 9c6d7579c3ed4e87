"""Run a program, and kill it and all its process group (SIGKILL) at a named point.

    python killed_at.py POINT LOG FOLDER program.py arguments ...

A point is a call by which files under FOLDER come to last, are put in place or go: `fsync
ledger/#/context.json`. The program dies before the first such call. LOG gets the name of every
call, a line each; a POINT that never comes kills nothing. Digests and other names that are made
up are written `#`. What the program starts is not looked at.
"""

import os
import re
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = ("fsync", "rename", "replace", "unlink", "rmdir")


def name(call: str, at: object, folder: Path) -> str | None:
    """Return the name of a point; null where the call is about something else."""
    path = Path(f"/proc/self/fd/{at}").readlink() if isinstance(at, int) else Path(str(at))
    if folder not in path.absolute().parents:
        return None
    return f"{call} {re.sub('[0-9a-f]{8,}', '#', str(path.absolute().relative_to(folder)))}"


def watch(call: str, point: str, log: int, folder: Path) -> None:
    """Put a watched version in the place of a call of `os`."""
    original: Callable[..., Any] = getattr(os, call)

    def watched(*args: Any, **kwargs: Any) -> Any:
        if args and kwargs.get("dir_fd") is None and (found := name(call, args[0], folder)):
            os.write(log, f"{found}\n".encode())
            if found == point:
                os.killpg(0, signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, call, watched)


def watch_calls(point: str, log: str, folder: str) -> None:
    """Log every point from now on, and die at one."""
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for call in CALLS:
        watch(call, point, log_file, Path(folder).resolve())


if __name__ == "__main__":
    _, point, log, folder, *rest = sys.argv
    watch_calls(point, log, folder)
    sys.argv = rest
    runpy.run_path(rest[0], run_name="__main__")
