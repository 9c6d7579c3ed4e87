"""What a person sees while a run goes on: one line a stage, a bar while a long one works."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Protocol, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from rich import progress as bars
from rich.console import Console

# A worker's flow runs speak through their log; a script's through the terminal.
UNDER_WORKER = "PREFECT__FLOW_RUN_ID" in os.environ
console = Console(quiet=UNDER_WORKER, highlight=False, soft_wrap=True)


def _fall_silent(self: Console) -> None:
    """Go on though nobody listens: a worker that is gone does not end its run."""
    self.quiet = True


if UNDER_WORKER:
    # rich, by which Prefect writes its log, ends a process whose output nobody reads.
    Console.on_broken_pipe = _fall_silent  # type: ignore[method-assign]

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


def beside(talk: Callable[[], None]) -> threading.Thread:
    """Talk to Prefect from a thread of its own: a server that is away must not hold up the work.

    In that thread a call fails at once while the server is away; nothing waits for it to end.
    """

    def run() -> None:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            talk()

    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    return thread


@contextmanager
def progress(stage: str, unit: str) -> Iterator[Report]:
    """Show how many units a stage has done: a bar in a terminal, an artifact in the Prefect UI."""
    percent, said, over = 0.0, unit, threading.Event()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal percent, said
        _bars.update(bar, completed=done, total=total, note=note)
        percent = 100 * done / max(total, 1)
        said = f"{done:,} of {total:,} {unit}" + (f": {note}" if note else "")

    def tell() -> None:
        artifact: UUID | None = None
        # Short work is over before anybody could look at its artifact.
        while not over.wait(_REPORT_EVERY) or artifact:
            # What the server misses while it is away, the next time tells.
            with suppress(httpx.HTTPError):
                if artifact is None:
                    made = create_progress_artifact(percent, f"{stage}-progress", said)
                    artifact = cast(UUID, made)
                else:
                    update_progress_artifact(artifact, percent, said)
            if over.is_set():
                return

    with _lock:
        _bars.start()
        bar = _bars.add_task(stage, total=None, unit=unit, note="")
    teller = beside(tell)
    try:
        yield report
    finally:
        over.set()
        teller.join(timeout=_REPORT_EVERY)
        with _lock:
            _bars.remove_task(bar)
            if not _bars.tasks:
                _bars.stop()
