"""Runs of flows one after the other in one process, which loads what they need once.

    python runs_in_turn.py '[{"settings": {...}, "room": 4096, "barred": "objects"}, ...]'

Of each run: its `flow` (full), its `settings`, how many bytes a file may hold (`room`), a folder of
the store that nobody may write (`barred`), and folders that are away meanwhile (`without`). Prints
a line of JSON for each: its state, what it raised, and its folders.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from disk_faults import barred, full_disk, obeying_modes
from workplace import Workplace

from dpo_pipeline.store.places import home


def in_turn(place: Workplace, api: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run them in another process; return what it says of each."""
    environment = place.environment(PREFECT_API_URL=api)
    done = obeying_modes(__file__, json.dumps(runs), **environment)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"state"')]
    assert len(said) == len(runs), done.stdout + done.stderr
    return said


@contextmanager
def without(folder: Path) -> Iterator[None]:
    """Take a folder away, and then put it in the place of what came there."""
    away = home() / f"away-{folder.name}"
    folder.rename(away)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)


def run(asked: dict[str, Any]) -> dict[str, Any]:
    known, flow = set((home() / "runs").glob("*")), asked.get("flow", "full")
    with ExitStack() as faults:
        for folder in asked.get("without", ()):
            faults.enter_context(without(home() / folder))
        if "barred" in asked:
            (home() / asked["barred"]).mkdir(exist_ok=True)
            faults.enter_context(barred(home() / asked["barred"]))
        faults.enter_context(full_disk(asked.get("room")))
        call = getattr(import_module(f"flows.{flow}"), flow)
        state = call(settings=asked["settings"], return_state=True)
    error = None if state.is_completed() else state.result(raise_on_failure=False)
    folders = [str(path) for path in set((home() / "runs").glob("*")) - known]
    return {"state": state.name, "raised": f"{type(error).__name__}: {error}", "folders": folders}


if __name__ == "__main__":
    for one in json.loads(sys.argv[1]):
        print(json.dumps(run(one)), flush=True)
