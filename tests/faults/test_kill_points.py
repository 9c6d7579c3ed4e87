"""Killed at every point at which files come to last, and again: as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from workplace import ROOT

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
KILLED_AT = ROOT / "tests" / "support" / "killed_at.py"
NOWHERE = "nowhere"


@dataclass
class Place:
    """A store, the points that runs over it passed, and what they built."""

    folder: Path

    def run(self, point: str = NOWHERE, *options: str) -> int:
        """Run the chain of stages, killed at a point with all its process group."""
        self.folder.mkdir(exist_ok=True)
        points, store, built = (self.folder / name for name in ("points", "store", "built"))
        command = [KILLED_AT, point, points, store, HERE / "chain.py", store, built]
        with subprocess.Popen(
            [sys.executable, *map(str, command), *options],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        ) as process:
            return process.wait()

    def built(self) -> list[str]:
        file = self.folder / "built"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    def points(self) -> list[str]:
        return list(dict.fromkeys((self.folder / "points").read_text().splitlines()))

    def digests(self) -> dict[str, str]:
        files = (self.folder / "store" / "objects").glob("*/*/manifest.json")
        return {p.parent.name: json.loads(p.read_text())["body"]["digest"] for p in files}

    def left_over(self) -> list[Path]:
        store = self.folder / "store"
        folders = [p for name in ("tmp", "work", "aside") for p in (store / name).glob("*")]
        return [*folders, *store.rglob("*.part")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Place:
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    assert place.run() == 0
    return place


def killed_everywhere(undisturbed: Place, tmp_path: Path, *options: str) -> int:
    """Kill at every point in turn, each in a store of its own; return how many there were."""
    survey = Place(tmp_path / "survey")
    for earlier in options:
        assert earlier == "refresh"
        assert survey.run() == 0
        (survey.folder / "points").unlink()
    assert survey.run(NOWHERE, *options) == 0
    for number, point in enumerate(survey.points()):
        place = Place(tmp_path / str(number))
        for _ in options:
            assert place.run() == 0
            (place.folder / "built").unlink()
        assert place.run(point, *options) == -signal.SIGKILL, point
        whole = set(place.digests())
        before = place.built()
        assert place.run() == 0
        assert place.digests() == undisturbed.digests(), point
        assert not place.left_over(), point
        if not options:
            again = place.built()[len(before) :]
            # A stage whose artifact was in place is not built again, nor is an answer or a
            # checkpoint that was on disk; the one at which the kill came may be.
            repeated = [what for what in again if what in before]
            assert len([w for w in repeated if w.startswith(("answer ", "step "))]) <= 1, point
            assert len(repeated) <= 2, (point, before, again)
            assert len([w for w in again if " " not in w]) == 3 - len(whole), point
    return len(survey.points())


@pytest.mark.parametrize("options", [(), ("refresh",)], ids=["first", "rebuilt"])
def test_a_run_killed_at_any_point_repeats_only_what_was_not_finished(
    undisturbed, tmp_path, options, record_property
):
    points = killed_everywhere(undisturbed, tmp_path, *options)
    assert points > 25
    record_property("cases", points)
