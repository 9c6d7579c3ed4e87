"""A search for settings: what Optuna is told, and what outlives a process."""

import subprocess
import sys

import pytest
from cards import GOOD, PLANTED, make_card

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.evaluation.ranking import worst_line
from dpo_pipeline.evaluation.search import Search
from dpo_pipeline.training.records import Look, Pruned
from dpo_pipeline.training.settings import SearchConfig, TrainConfig

RANGES = SearchConfig(trials=9, learning_rate=(1e-5, 1e-3), lora={"rank": (4, 64)})
TRAIN = TrainConfig().resolve("others")
LOOK = Look(step=40, strength=1, identity_rate=0.5, kl=0.01, unasked=0, unchanged=1)

DRAW_AND_DIE = """
import os, signal, sys
from pathlib import Path
from dpo_pipeline.evaluation.search import Search
from dpo_pipeline.training.settings import SearchConfig, TrainConfig
config = SearchConfig.model_validate_json(sys.argv[2])
search = Search(Path(sys.argv[1]), config, TrainConfig().resolve("others"))
search.resume()
search.draw()
print(dict(search.draw().settings), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def search(tmp_path) -> Search:
    found = Search(tmp_path / "studies" / "s.db", RANGES, TRAIN)
    found.resume()
    return found


def test_the_first_trial_is_what_train_says(search):
    assert search.draw().settings == {"learning_rate": TRAIN.learning_rate, "lora.rank": 32}


def test_numbers_stay_between_their_limits_and_words_among_those_given(tmp_path):
    config = SearchConfig(trials=9, warmup=(0.0, 0.5), loss_type=("ipo", "hinge"))
    search = Search(tmp_path / "s.db", config, TRAIN)
    for _ in range(9):
        settings = search.draw().settings
        assert 0 <= settings["warmup"] <= 0.5
        assert settings["loss_type"] in ("ipo", "hinge")


def test_a_killed_search_goes_on_with_what_it_had_drawn(tmp_path):
    file = tmp_path / "s.db"
    died = subprocess.run(
        [sys.executable, "-c", DRAW_AND_DIE, str(file), RANGES.model_dump_json()],
        capture_output=True,
        text=True,
    )
    assert died.returncode == -9, died.stderr
    search = Search(file, RANGES, TRAIN)
    assert search.resume() == ([], 0)
    again = [dict(search.draw().settings) for _ in range(2)]
    assert str(again[1]) == died.stdout.strip()


def test_what_finished_comes_back_and_what_was_dropped_says_why(search):
    first, second, third = (search.draw() for _ in range(3))
    card = make_card(GOOD)[0]
    first.finish([LOOK], card)
    second.drop(Pruned("step 40: behind"))
    third.drop(TrainingError("not finite"))
    again = Search(search.file, RANGES, TRAIN)
    # The one that failed leaves its place to another.
    assert again.resume() == ([first.settings], 1)
    assert {why: settings for settings, why in again.dropped()} == {
        "step 40: behind": second.settings,
        "not finite": third.settings,
    }
    assert again.study.best_value == worst_line(card)[0]


def test_who_is_behind_the_median_is_pruned_but_not_the_first_nor_at_the_first_look(search):
    worse = LOOK.model_copy(update={"identity_rate": 0.1})
    for _ in range(3):
        attempt = search.draw()
        attempt.watch(worse)
        attempt.finish([LOOK, LOOK.model_copy(update={"step": 60})], make_card(PLANTED)[0])
    attempt = search.draw()
    attempt.watch(worse.model_copy(update={"step": 20}))
    attempt.watch(worse)
    with pytest.raises(Pruned, match="behind half of those that finished; tuning split, step 60"):
        attempt.watch(worse.model_copy(update={"step": 60}))
