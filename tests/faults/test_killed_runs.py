"""The whole pipeline killed, at random moments and at every named point, and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workplace import Workplace

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
KILLS = 5  # of each of eight series
TINY = (
    *("--train.max-steps", "6", "--train.save-steps", "2", "--train.goal", "null"),
    *("--train.batch-size", "4", "--pairs.min-yield", "0.01"),
    *("--evaluation.max-prompts", "6", "--evaluation.matrix-prompts", "0"),
)


class Killed(Workplace):
    """A home in which runs are started by the dozen, and killed with all their process group."""

    def start(self, api: str, *wrapper: object) -> subprocess.Popen[bytes]:
        command = [sys.executable, *map(str, wrapper), str(self.root / "flows" / "full.py"), *TINY]
        with (self.home / "log").open("a") as log:
            return subprocess.Popen(
                command,
                env=self.environment(PREFECT_API_URL=api),
                cwd=self.home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, api: str) -> None:
        assert self.start(api).wait() in (0, 1)
        assert "error" not in self.summaries()[-1], (self.home / "log").read_text()

    def artifacts(self) -> dict[str, tuple[str, int]]:
        """Return the digest of each artifact, and when it was put in place (inode: unmoved)."""
        files = (self.home / "dpo" / "objects").glob("*/*/manifest.json")
        return {
            f"{path.parent.parent.name} {path.parent.name}": (
                json.loads(path.read_text())["body"]["digest"],
                path.stat().st_ino,
            )
            for path in files
        }

    def digests(self) -> dict[str, str]:
        return {name: digest for name, (digest, _) in self.artifacts().items()}

    def left_over(self) -> list[Path]:
        store = self.home / "dpo"
        folders = [path for name in ("tmp", "work", "aside") for path in (store / name).glob("*")]
        return [*folders, *store.rglob("*.part")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, server) -> tuple[Killed, float]:
    place = Killed(tmp_path_factory.mktemp("undisturbed"))
    started = time.monotonic()
    place.finish(server)
    return place, time.monotonic() - started


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random_moments_a_run_ends_as_if_undisturbed(
    undisturbed, server, tmp_path, seed, record_property
):
    (expected, seconds), rng = undisturbed, random.Random(seed)
    place, kills, ends = Killed(tmp_path), 0, 0
    before: dict[str, tuple[str, int]] = {}
    while kills < KILLS and ends < 2:
        process = place.start(server)
        try:
            process.wait(rng.uniform(0, seconds))
            ends += 1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        now = place.artifacts()
        assert now.items() >= before.items(), "what was whole stays as it is"
        before = now
    place.finish(server)
    assert place.artifacts().items() >= before.items()
    assert place.digests() == expected.digests()
    assert not place.left_over()
    record_property("cases", kills)


def test_killed_at_every_named_point_a_run_ends_as_if_undisturbed(
    undisturbed, server, tmp_path, record_property
):
    survey = Killed(tmp_path / "survey")
    survey.home.mkdir()
    log = survey.home / "points"
    watch = HERE / "killed_at.py"
    assert survey.start(server, watch, "nowhere", log, survey.home / "dpo").wait() in (0, 1)
    points = list(dict.fromkeys(log.read_text().splitlines()))
    place, kills = Killed(tmp_path / "place"), 0
    place.home.mkdir()
    before: dict[str, tuple[str, int]] = {}
    for point in points:  # each run dies a little later than the one before
        ended = place.start(server, watch, point, place.home / "points", place.home / "dpo").wait()
        kills += ended == -signal.SIGKILL
        now = place.artifacts()
        assert now.items() >= before.items(), point
        before = now
    place.finish(server)
    assert place.digests() == undisturbed[0].digests()
    assert not place.left_over()
    assert kills > 40
    record_property("cases", kills)
