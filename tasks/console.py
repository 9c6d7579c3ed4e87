"""What a person sees while a run goes on: one line a stage, a bar while a long one works."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich import progress as bars
from rich.console import Console

# A worker's flow runs speak through their log; a script's through the terminal.
UNDER_WORKER = "PREFECT__FLOW_RUN_ID" in os.environ
console = Console(quiet=UNDER_WORKER, highlight=False, soft_wrap=True)

# Long enough that reporting costs nothing beside the work.
_REPORT_EVERY = 2.0


class Report(Protocol):
    """Callback of long work: so many done, of so many, and what there is to say."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report progress."""


# Shards of one stage work in threads and share one display: a terminal holds only one.
_bars = bars.Progress(
    bars.TextColumn("  {task.description:<9}"),
    bars.BarColumn(bar_width=30),
    bars.MofNCompleteColumn(),
    bars.TextColumn("{task.fields[unit]}"),
    bars.TimeElapsedColumn(),
    bars.TimeRemainingColumn(),
    bars.TextColumn("{task.fields[note]}"),
    console=console,
    transient=True,
    disable=not console.is_terminal or UNDER_WORKER,
)
_lock = threading.Lock()


@contextmanager
def progress(stage: str, unit: str) -> Iterator[Report]:
    """Show how many units a stage has done: a bar in a terminal, an artifact in the Prefect UI."""
    artifact: UUID | None = None
    reported = time.monotonic()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal artifact, reported
        _bars.update(bar, completed=done, total=total, note=note)
        # Short work is over before anybody could look at its artifact.
        if time.monotonic() - reported < _REPORT_EVERY:
            return
        reported = time.monotonic()
        percent = 100 * done / max(total, 1)
        if artifact is None:
            made = create_progress_artifact(percent, key=f"{stage}-progress", description=unit)
            artifact = cast(UUID, made)
        else:
            update_progress_artifact(artifact, progress=percent)

    with _lock:
        _bars.start()
        bar = _bars.add_task(stage, total=None, unit=unit, note="")
    try:
        yield report
    finally:
        with _lock:
            _bars.remove_task(bar)
            if not _bars.tasks:
                _bars.stop()
    if artifact is not None:
        update_progress_artifact(artifact, progress=100)
