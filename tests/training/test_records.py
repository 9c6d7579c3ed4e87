"""What a training process and its owner tell each other."""

import pytest

from dpo_pipeline.errors import ModelError
from dpo_pipeline.training.records import (
    Failed,
    Look,
    OutOfMemoryError,
    StepDone,
    child_module,
    read_message,
    send,
)
from dpo_pipeline.training.settings import GoalConfig, TrainConfig

LOOK = Look(step=20, strength=0.5, identity_rate=1.0, kl=0.01, unasked=0.0, unchanged=0.9)


@pytest.mark.parametrize(
    "message",
    [
        StepDone(step=3, total=9, note="loss 0.1, \x1e or a\nline"),
        LOOK,
        Failed(type="ModelError", arguments=["no weights"]),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_out_of_the_log_as_it_went_in(capsys, message):
    send(message)
    (line,) = capsys.readouterr().out.split("\n")[:-1]
    assert read_message(line) == message
    assert read_message(f"log: {line}") is None


def test_an_error_is_made_again_with_what_it_knows():
    error = Failed(type="ModelError", arguments=["no weights"]).error()
    assert (type(error), str(error)) == (ModelError, "no weights")
    error = Failed(type="OutOfMemoryError", arguments=[4, 200]).error()
    assert isinstance(error, OutOfMemoryError)
    assert (error.pairs, error.tokens) == (4, 200)
    assert "4 pairs of up to 200 tokens" in str(error)


def test_only_a_training_with_a_goal_runs_what_looks():
    assert child_module(TrainConfig()) == "dpo_pipeline.training.tuning"
    assert child_module(TrainConfig(goal=None)) == "dpo_pipeline.training.child"


def test_a_look_meets_its_goal_on_every_line():
    goal = GoalConfig(identity_rate=0.9, max_kl=0.05, max_unasked=0.01)
    fine = Look(step=1, strength=1.0, identity_rate=0.95, kl=0.04, unasked=0.0, unchanged=0.5)
    assert fine.meets(goal)
    for worse in ({"identity_rate": 0.8}, {"kl": 0.06}, {"unasked": 0.02}):
        assert not fine.model_copy(update=worse).meets(goal)
