"""A home folder of its own, and flows run in it as a person would."""

import json
import os
import subprocess
import sys
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

    def full(self, *options: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return self.python(str(self.root / "flows" / "full.py"), *options, **extra)

    def summaries(self) -> list[dict]:
        """Return the summary of every finished run, oldest first."""
        files = sorted(
            (self.home / "dpo" / "runs").glob("*/summary.json"), key=lambda p: p.stat().st_mtime_ns
        )
        return [json.loads(path.read_text(encoding="utf-8")) for path in files]
