"""Training until it is done, and the strength that is enough."""

import pytest
from trained import (
    StopError,
    history_of,
    interrupt,
    interrupt_at,
    largest_difference,
    stats_of,
    train_here,
)

from dpo_pipeline.training import child, tuning
from dpo_pipeline.training.settings import GoalConfig

AT_ONCE = GoalConfig(identity_rate=0.0, max_kl=1e9, max_unasked=1.0, every=2)
NEVER = GoalConfig(identity_rate=1.0, max_kl=1e9, max_unasked=1.0, every=2)


@pytest.fixture(autouse=True)
def few_prompts(monkeypatch):
    """Six prompts instead of all: the tiny model says nonsense to any."""
    some = [p for p in tuning.read_tuning() if p.language == "en"]
    monkeypatch.setattr(tuning, "read_tuning", lambda: [*some[:3], *some[-3:]])


def test_training_ends_at_the_first_look_that_meets_the_goal(ref, dataset, tmp_path):
    out = train_here(ref, dataset, tmp_path, goal=AT_ONCE)
    record = stats_of(out)
    assert (record.steps, record.planned_steps, record.goal_met) == (2, 6, True)
    first, second = history_of(out)
    assert "kl" not in first
    assert second["kl"] > 1e-9
    assert (out / "model" / "model.safetensors").exists()


def test_all_steps_are_taken_where_the_goal_is_not_met(ref, dataset, tmp_path):
    record = stats_of(train_here(ref, dataset, tmp_path, goal=NEVER))
    assert (record.steps, record.goal_met, record.strength) == (6, False, 1.0)
    assert [look.step for look in record.looks] == [2, 4, 6]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_looking_changes_nothing(ref, dataset, tmp_path, method):
    looked = train_here(ref, dataset, tmp_path / "looked", goal=NEVER, method=method)
    alone = train_here(ref, dataset, tmp_path / "alone", method=method)
    assert largest_difference(looked, alone) == 0
    assert [row["step"] for row in history_of(looked) if "kl" in row] == [2, 4]


def test_the_smallest_strength_that_is_enough_is_applied(ref, dataset, tmp_path):
    goal = AT_ONCE.model_copy(update={"every": None})
    weak = train_here(ref, dataset, tmp_path / "weak", goal=goal)
    record = stats_of(weak)
    assert record.strength == min(tuning.STRENGTHS)
    assert [look.strength for look in record.looks] == [*tuning.STRENGTHS]
    kls = [look.kl for look in record.looks]
    assert kls == sorted(kls, reverse=True)
    full = train_here(ref, dataset, tmp_path / "full")
    assert largest_difference(weak, full) > 0


def test_an_interrupted_run_remembers_what_it_saw(ref, dataset, tmp_path):
    whole = train_here(ref, dataset, tmp_path / "whole", goal=NEVER)
    interrupt_at(5, ref, dataset, tmp_path / "run", goal=NEVER)
    out = train_here(ref, dataset, tmp_path / "run", goal=NEVER)
    assert (out / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()


def test_a_run_that_dies_when_it_was_done_is_done_there_again(ref, dataset, tmp_path, monkeypatch):
    whole = train_here(ref, dataset, tmp_path / "whole", goal=AT_ONCE, save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(child, "_save_model", interrupt)
        with pytest.raises(StopError):
            train_here(ref, dataset, tmp_path / "run", goal=AT_ONCE, save_steps=1)
    out = train_here(ref, dataset, tmp_path / "run", goal=AT_ONCE, save_steps=1)
    assert stats_of(out).steps == 2
    assert largest_difference(out, whole) == 0
