"""Time to look up an artifact, and to look after a store, as the number of artifacts grows.

    python benchmarks/store.py                      # 100, 1,000 and 10,000 artifacts
    python benchmarks/store.py --artifacts 500

Half of the artifacts belong to runs of ten stages each. All hold two files of 1 kB; a lookup reads
and checks both.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.keys import KeyParts
from dpo_pipeline.store.maintenance import artifacts, check_store, collect
from dpo_pipeline.store.records import Record

STAGES = ("census", "download", "evaluate", "generate", "instruct", "model", "retain", "rewrite",
          "save", "train")  # fmt: skip


def parts(number: int) -> KeyParts:
    """Return key parts the size of a real stage's."""
    code = {f"dpo_pipeline.module_{i}": digest_of([i]) for i in range(40)}
    return {"stage": STAGES[number % 10], "inputs": {"number": number}, "code": dict(code)}


def build(out: Path, _work: Path) -> Record:
    """Write two small files."""
    for name in ("a", "b"):
        (out / name).write_bytes(b"x" * 1024)
    return Record()


def timed(work: Callable[[], object]) -> float:
    """Return the milliseconds that it takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def measure(count: int) -> dict[str, float]:
    """Fill a store, and return milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        keys = [digest_of(parts(number))[:32] for number in range(count)]
        write = [
            timed(lambda n=n: store.get_or_build(STAGES[n % 10], parts(n), build, Record))
            for n in range(count)
        ]
        for run in range(0, count // 2, 10):
            summary = Path(folder) / "runs" / f"run-{run}" / "summary.json"
            summary.parent.mkdir(parents=True)
            summary.write_text(json.dumps({"stages": keys[run : run + 10]}))
        picked = range(0, count, max(1, count // 200))
        hits = [timed(lambda n=n: store.get(STAGES[n % 10], keys[n], Record)) for n in picked]
        misses = [timed(lambda n=n: store.get(STAGES[n % 10], "0" * 32, Record)) for n in picked]
        return {
            "write": statistics.median(write),
            "hit": statistics.median(hits),
            "hit, slowest": max(hits),
            "miss": statistics.median(misses),
            "explain a miss": timed(lambda: store.latest_parts("train")),
            "ls": timed(lambda: artifacts(store)),
            "verify": timed(lambda: list(check_store(store))),
            "gc": timed(lambda: list(collect(store, 0, delete=True))),
        }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--artifacts", type=int, nargs="+", default=[100, 1000, 10_000])
    counts = parser.parse_args().artifacts
    print(f"{platform.machine()}, Python {platform.python_version()}; milliseconds")
    for number, count in enumerate(counts):
        found = measure(count)
        if number == 0:
            print(f"{'artifacts':>9}", *(f"{name:>15}" for name in found))
        print(f"{count:>9}", *(f"{value:>15.2f}" for value in found.values()), flush=True)


if __name__ == "__main__":
    main()
