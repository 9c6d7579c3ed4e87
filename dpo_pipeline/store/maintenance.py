"""Look after a store: what lies in it, whether it is whole, what may go, what a run is made of.

    python -m dpo_pipeline.store.maintenance ls
    python -m dpo_pipeline.store.maintenance verify
    python -m dpo_pipeline.store.maintenance gc --delete --days 30
    python -m dpo_pipeline.store.maintenance explain RUN

What a run refers to stays as long as its folder under runs/ does, with all that this depends on.
Answers (ledger/) and reference scores (references/) stay always: they are small, and hours of work.
"""

import argparse
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dpo_pipeline.errors import StoreError
from dpo_pipeline.plaintext import plain
from dpo_pipeline.store.access import claim
from dpo_pipeline.store.artifacts import (
    MANIFEST,
    DamagedError,
    OtherVersionError,
    Store,
    read_manifest,
    verify,
)
from dpo_pipeline.store.files import explained
from dpo_pipeline.store.keys import KeyParts, explain
from dpo_pipeline.store.places import home

DAY = 24 * 3600  # seconds
# A key or a sha256: what artifacts and weights are called wherever they are mentioned.
_NAME = re.compile(r"\b(?:[0-9a-f]{32}|[0-9a-f]{64})\b")


@dataclass(frozen=True)
class Kept:
    """An artifact as it lies there, whole or not."""

    path: Path
    runs: set[str] = field(default_factory=set)  # names of those that refer to it

    @cached_property
    def text(self) -> str:
        """What its manifest holds; empty: it has none."""
        file = self.path / MANIFEST
        return file.read_text("utf-8", errors="replace") if file.is_file() else ""

    @property
    def weights(self) -> str | None:
        """Digest of the model that lies in it, if one does."""
        try:
            model = json.loads(self.text)["body"]["stats"]["model"]
            return None if Path(model["path"]).is_absolute() else str(model["weights_digest"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None


def artifacts(store: Store) -> list[Kept]:
    """Return every artifact with the runs that refer to it, however far down its lineage."""
    found = {path.name: Kept(path) for path in sorted((store.root / "objects").glob("*/*"))}
    holders: dict[str, list[Kept]] = {}
    for one in found.values():
        if weights := one.weights:
            holders.setdefault(weights, []).append(one)
    runs = {
        summary.parent.name: _follow(summary.parent.name, summary.read_text("utf-8"), found)
        for summary in sorted((store.root / "runs").glob("*/summary.json"))
    }
    for run, mentioned in runs.items():
        # A stage made again puts the same weights in another artifact: one of them is enough.
        for name in mentioned & holders.keys():
            if not any(one.runs for one in holders[name]):
                newest = min(holders[name], key=lambda one: age(one.path))
                _follow(run, newest.path.name, found)
    return list(found.values())


def _follow(run: str, text: str, found: dict[str, Kept]) -> set[str]:
    """Note a run at all that a text mentions, and that these mention; return all their names."""
    mentioned: set[str] = set()
    asked = set(_NAME.findall(text))
    while asked:
        name = asked.pop()
        mentioned.add(name)
        if one := found.get(name):
            one.runs.add(run)
            asked |= set(_NAME.findall(one.text)) - mentioned
    return mentioned


def collect(store: Store, days: float, *, delete: bool) -> Iterator[str]:
    """Say what may go, and its bytes: what no run refers to, was set aside, or was left behind.

    Args:
        store: Held alone while this goes on.
        days: What is younger stays, but for the remains of builds that died.
        delete: Delete it as well.
    Raises:
        StoreError: A run is using the store, or something cannot be deleted.
    """
    with store.hold(alone=True):
        loose = [one.path for one in artifacts(store) if not one.runs]
        remains, total = store.remains(), 0
        loose += [path for name in ("aside", "work") for path in (store.root / name).glob("*")]
        loose = [path for path in loose if path not in remains and age(path) >= days]
        for path in [*remains, *loose]:
            taken = size(path)
            total += taken
            if delete:
                _delete(path, store)
            yield f"{taken:>15,} bytes  {path}"
        yield f"{total:>15,} bytes {'freed' if delete else 'would be freed by --delete'}"


def _delete(path: Path, store: Store) -> None:
    """Delete a folder so that, whatever happens, no half of it is left in its place."""
    with explained(path):
        gone = store.root / "tmp" / f"{path.parent.name}-{path.name}"
        gone.parent.mkdir(exist_ok=True)
        path.replace(gone)
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        (store.root / "locks" / gone.name).unlink(missing_ok=True)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(e.lstat().st_size for e in (path, *path.rglob("*")) if not e.is_dir())


def age(path: Path) -> float:
    """Return the days since something in a folder was last written."""
    times = (entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    return (time.time() - max(times)) / DAY


def list_store(store: Store) -> Iterator[str]:
    """Say what lies in a store: a line an artifact, then the bytes of each of its folders."""
    for one in artifacts(store):
        what = f"{one.path.parent.name:<12} {one.path.name}"
        yield f"{what} {size(one.path):>15,} bytes  {len(one.runs)} runs"
    for folder in sorted(path for path in store.root.glob("*") if path.is_dir()):
        yield f"{folder.name:<12} {'':<32} {size(folder):>15,} bytes"


def check_store(store: Store) -> Iterator[str]:
    """Read every byte of every artifact, and say which are not what was written."""
    for path in sorted((store.root / "objects").glob("*/*")):
        try:
            verify(path)
        except DamagedError as damage:
            yield f"{path}: {damage}; the next run that needs it makes it again"
        except OtherVersionError:
            continue  # read by the version that wrote it


def explain_run(store: Store, run: str) -> Iterator[str]:
    """Say what a run is made of, and what sets each part apart from the one made before it.

    Raises:
        StoreError: There is no such run.
    """
    found = sorted((store.root / "runs").glob(f"*{run}*/summary.json"))
    if len(found) != 1:
        there = ", ".join(file.parent.name for file in found) or "none"
        raise StoreError(f"{run!r}: name one run of {store.root / 'runs'}; so called: {there}")
    for name, stage in json.loads(found[0].read_text("utf-8"))["stages"].items():
        path = Path(stage["path"])
        there = f"{size(path):,} bytes" if path.is_dir() else "gone; made again if needed"
        yield f"{name:<12} {stage['status']:<6} {path}  {there}"
        yield from (f"{'':<12} {line}" for line in _differences(path))


def _differences(path: Path) -> Iterator[str]:
    mine = _parts(path)
    others = [other for other in path.parent.glob("*") if age(other) > age(path)]
    before = next(filter(None, map(_parts, sorted(others, key=age))), None)
    if mine and before:
        yield f"unlike the one before: {', '.join(explain(mine, before)) or 'nothing'}"


def _parts(path: Path) -> KeyParts | None:
    try:
        return read_manifest(path / MANIFEST).parts
    except (DamagedError, OtherVersionError):
        return None


def main(arguments: list[str] | None = None) -> int:
    """Run one command on the store of this home; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dpo_pipeline.store.maintenance")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="list what lies in the store, its bytes and its runs")
    commands.add_parser("verify", help="read every byte, and name what is damaged (status 1)")
    gc = commands.add_parser("gc", help="say what may go; nothing that a run refers to")
    gc.add_argument("--delete", action="store_true", help="and delete it")
    gc.add_argument("--days", type=float, default=7.0, help="what is younger stays (7)")
    one = commands.add_parser("explain", help="say what a run is made of")
    one.add_argument("run", help="its name, or a part of it")
    asked = parser.parse_args(arguments)
    store, line = Store(home()), None
    says = {
        "ls": lambda: list_store(store),
        "verify": lambda: check_store(store),
        "gc": lambda: collect(store, asked.days, delete=asked.delete),
        "explain": lambda: explain_run(store, asked.run),
    }
    try:
        claim(store.root)
        for line in says[asked.command]():
            print(plain(line))
    except StoreError as error:
        sys.exit(str(error))
    return 1 if line and asked.command == "verify" else 0


if __name__ == "__main__":
    sys.exit(main())
