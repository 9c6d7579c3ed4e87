"""What evaluating costs beside training, on the starter.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--write]     # about 5 minutes

Every round is a whole run of the starter in a home folder of its own, so that neither stage finds
anything it made before.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGES = ("train", "evaluate")


def run(home: Path) -> dict[str, float]:
    """Run the starter's pipeline in a home folder; return the seconds of each stage."""
    places = {"DPO_PIPELINE_HOME": home / "dpo", "PREFECT_HOME": home / "prefect"}
    subprocess.run(
        [sys.executable, ROOT / "flows" / "full.py", "--config", ROOT / "configs" / "starter.yaml"],
        env={**os.environ, **{name: str(path) for name, path in places.items()}},
        stdout=subprocess.DEVNULL,
        check=False,  # a run that fails the gate took its time as well
    )
    (summary,) = (home / "dpo" / "runs").glob("*/summary.json")
    stages = json.loads(summary.read_text(encoding="utf-8"))["stages"]
    assert all(stages[name]["status"] == "built" for name in STAGES)
    return {name: stages[name]["seconds"] for name in STAGES}


def measure(rounds: int) -> list[dict[str, float]]:
    """Run so many rounds; return the seconds of the stages in each."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            home = Path(scratch, str(number))
            home.mkdir()
            found.append(run(home))
            print(number, found[-1], file=sys.stderr)
    return found


def describe_machine() -> str:
    """Name the processor, its cores, the versions, and how busy the machine was."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((x.split(": ")[1] for x in lines if x.startswith("model name")), platform.machine())
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return (
        f"{os.cpu_count()} cores of {cpu}, OMP_NUM_THREADS={threads}, "
        f"Python {platform.python_version()}; load average {os.getloadavg()[0]:.1f} at the end"
    )


def main() -> None:
    """Print the figures, and with --write keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the figures under results/")
    args = parser.parse_args()
    found = measure(args.rounds)
    median = {name: statistics.median(r[name] for r in found) for name in STAGES}
    ratios = [r["evaluate"] / r["train"] for r in found]
    lines = [
        f"python benchmarks/evaluation.py; {describe_machine()}",
        *(f"{n:<9}" + "".join(f"{r[n]:8.2f}" for r in found) + f"   median {median[n]:.2f} s"
          for n in STAGES),
        f"evaluate / train, median of the rounds: {statistics.median(ratios):.2f}",
    ]  # fmt: skip
    print("\n".join(lines))
    if args.write:
        path = ROOT / "benchmarks" / "results" / "evaluation-cpu.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
