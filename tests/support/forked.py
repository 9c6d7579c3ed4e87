"""A process that has loaded all that a run needs, and forks one at a time: imports cost nothing.

    python forked.py

Reads a line of JSON a run: its options, its home, and where it dies (point, log, folder: see
killed_at.py). Answers with two lines: the run's process, which leads a group of its own, and its
exit status, negative where a signal ended it.
"""

import json
import os
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from killed_at import watch_calls

LOADED = (
    *("torch", "datasets", "transformers.models.qwen2.modeling_qwen2", "flows.full"),
    *("dpo_pipeline.answers.collecting", "dpo_pipeline.answers.decoding"),
    *("dpo_pipeline.pairs.rewriting", "dpo_pipeline.evaluation.scorecard"),
    *("dpo_pipeline.training.run", "dpo_pipeline.evaluation.divergence"),
)


class Forker:
    """Starts runs of flows/full.py, one at a time, as forks of one process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def start(self, options: Sequence[str], home: Path, die: Sequence[object] = ()) -> None:
        """Start a run in a home folder."""
        asked = {"options": options, "home": str(home), "die": list(map(str, die))}
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.run = int(self.process.stdout.readline())

    def wait(self, seconds: float | None = None) -> int:
        """Return how the run ended; one that takes longer is killed with its group."""
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(self.run, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def become(asked: dict[str, Any], flow: str) -> None:
    """Become a run, in the way that a shell starts it."""
    os.setsid()
    os.write(1, f"{os.getpid()}\n".encode())
    home = Path(asked["home"])
    os.environ["DPO_PIPELINE_HOME"] = str(home / "dpo")
    os.chdir(home)
    log = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    if asked["die"]:
        watch_calls(*asked["die"])
    sys.argv = [flow, *asked["options"]]
    runpy.run_path(flow, run_name="__main__")


def main() -> None:
    for module in LOADED:
        import_module(module)
    for line in sys.stdin:
        run = os.fork()
        if not run:
            return become(json.loads(line), sys.modules["flows.full"].__file__)
        _, status = os.waitpid(run, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


if __name__ == "__main__":
    main()
