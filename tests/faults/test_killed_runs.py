"""The whole pipeline killed, at random moments and at every named point, and started again."""

import json
import random
import signal
import time
from collections.abc import Iterator

import pytest
from forked import Forker
from workplace import Workplace

pytestmark = pytest.mark.slow

KILLS = 5  # of each of eight series
TINY = (
    *("--prompts.limit", "60", "--generation.max-new-tokens", "24", "--pairs.min-yield", "0.01"),
    *("--train.max-steps", "6", "--train.save-steps", "2", "--train.goal", "null"),
    *("--train.batch-size", "4", "--evaluation.max-prompts", "6"),
    *("--evaluation.matrix-prompts", "0", "--evaluation.noise-prompts", "4"),
)


class Killed(Workplace):
    """A home in which runs are started by the dozen, and killed with all their process group."""

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

    def finish(self, forker: Forker) -> dict[str, str]:
        """Run to the end, in one go; return the digests of what is there, and nothing left over."""
        forker.start(TINY, self.home)
        assert forker.wait() in (0, 1), (self.home / "log").read_text()
        assert "error" not in self.summaries()[-1], (self.home / "log").read_text()
        store = self.home / "dpo"
        assert not [path for name in ("tmp", "work", "aside") for path in (store / name).glob("*")]
        assert not list(store.rglob("*.part"))
        return {name: digest for name, (digest, _) in self.artifacts().items()}


@pytest.fixture(scope="module")
def forker(tmp_path_factory, server) -> Iterator[Forker]:
    home = tmp_path_factory.mktemp("forker")
    forker = Forker(Workplace(home).environment(PREFECT_API_URL=server))
    yield forker
    forker.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, forker) -> tuple[dict[str, str], float]:
    """Run once in peace; return the digests of all artifacts, and the seconds that it took."""
    started = time.monotonic()
    digests = Killed(tmp_path_factory.mktemp("undisturbed")).finish(forker)
    return digests, time.monotonic() - started


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random_moments_a_run_ends_as_if_undisturbed(
    undisturbed, forker, tmp_path, seed, record_property
):
    (expected, seconds), rng = undisturbed, random.Random(seed)
    place, kills, ends = Killed(tmp_path), 0, 0
    before: dict[str, tuple[str, int]] = {}
    while kills < KILLS and ends < 2:
        forker.start(TINY, place.home)
        killed = forker.wait(rng.uniform(0, seconds)) == -signal.SIGKILL
        kills, ends = kills + killed, ends + (not killed)
        now = place.artifacts()
        assert now.items() >= before.items(), "what was whole stays as it is"
        before = now
    assert place.finish(forker) == expected
    assert place.artifacts().items() >= before.items()
    record_property("cases", kills)


def test_killed_at_every_named_point_a_run_ends_as_if_undisturbed(
    undisturbed, forker, tmp_path, record_property
):
    def run(place: Killed, point: str) -> int:
        forker.start(TINY, place.home, (point, place.home / "points", place.home / "dpo"))
        return forker.wait()

    survey, place = Killed(tmp_path / "survey"), Killed(tmp_path / "place")
    for one in (survey, place):
        one.home.mkdir()
    assert run(survey, "nowhere") in (0, 1)
    points = list(dict.fromkeys((survey.home / "points").read_text().splitlines()))
    kills, before = 0, dict[str, tuple[str, int]]()
    for point in points:  # each run dies a little later than the one before
        kills += run(place, point) == -signal.SIGKILL
        now = place.artifacts()
        assert now.items() >= before.items(), point
        before = now
    assert place.finish(forker) == undisturbed[0]
    assert kills > 40
    record_property("cases", kills)
