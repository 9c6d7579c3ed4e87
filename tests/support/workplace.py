"""A home folder of its own, and flows run in it as a person would."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Workplace:
    """A home folder of its own, and flows run in it as a person would."""

    home: Path
    root: Path = ROOT

    def environment(self, **extra: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "DPO_", "HF_"))}
        return {
            **kept,
            "DPO_PIPELINE_HOME": str(self.home / "dpo"),
            "PREFECT_HOME": str(self.home / "prefect"),
            "HF_HOME": str(self.home / "hf"),
            "PYTHONPATH": str(self.root),
            **extra,
        }

    def python(self, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run Python outside the checkout, so that nothing is found by the working directory."""
        return subprocess.run(
            [sys.executable, *args],
            env=self.environment(**extra),
            cwd=self.home,
            capture_output=True,
            text=True,
        )

    def prefect(self, api: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Prefect's in the checkout, as the README tells."""
        return subprocess.run(
            [sys.executable, "-m", "prefect", *args],
            env=self._with_commands(api),
            cwd=self.root,
            capture_output=True,
            text=True,
        )

    @contextmanager
    def worker(self, api: str) -> Iterator[subprocess.Popen[str]]:
        """Run a worker of the pool cpu, one run at a time; it ends with the block."""
        command = ["worker", "start", "--pool", "cpu", "--limit", "1", "--install-policy", "never"]
        with (
            (self.home / "worker.log").open("a") as log,
            subprocess.Popen(
                [sys.executable, "-m", "prefect", *command],
                env=self._with_commands(api),
                cwd=self.root,
                stdout=log,
                stderr=log,
                text=True,
            ) as process,
        ):
            yield process
            process.terminate()

    def _with_commands(self, api: str) -> dict[str, str]:
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return self.environment(PREFECT_API_URL=api, PATH=binaries)

    def full(self, *options: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return self.python(str(self.root / "flows" / "full.py"), *options, **extra)

    def summaries(self) -> list[dict]:
        """Return the summary of every finished run, oldest first."""
        files = sorted(
            (self.home / "dpo" / "runs").glob("*/summary.json"), key=lambda p: p.stat().st_mtime_ns
        )
        return [json.loads(path.read_text(encoding="utf-8")) for path in files]
