"""Stopping at the smallest change."""

import pytest
from trained import (
    CONFIG,
    StopError,
    history_of,
    interrupt,
    interrupt_at,
    largest_difference,
    make_job,
    stats_of,
    train_here,
)

from dpo_pipeline.errors import EvaluationError
from dpo_pipeline.training import child
from dpo_pipeline.training.run import train
from dpo_pipeline.training.settings import LoraConfig, StopConfig


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [
        (StopConfig(identity_rate=0.0, every=2, prompts=3), "the identity rate reached 0%"),
        (
            StopConfig(max_kl=1e-9, every=2, prompts=3),
            "the KL budget of 1e-09 nats per token is spent",
        ),
    ],
)
def test_training_stops_at_the_first_look_that_says_so(ref, held_out, tmp_path, stop, outcome):
    out = train_here(ref, held_out, tmp_path, stop=stop)
    record = stats_of(out)
    assert (record.steps, record.planned_steps, record.stopped) == (2, 6, outcome)
    first, second = history_of(out)
    assert "kl" not in first
    assert second["kl"] > 1e-9
    assert second["identity_rate"] == 0.0
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_looking_changes_nothing(ref, held_out, tmp_path, lora):
    stop = StopConfig(max_kl=1e9, every=2, prompts=3)
    looked = train_here(ref, held_out, tmp_path / "looked", stop=stop, lora=lora)
    alone = train_here(ref, held_out, tmp_path / "alone", lora=lora)
    assert largest_difference(looked, alone) == 0
    assert [row["step"] for row in history_of(looked) if "kl" in row] == [2, 4, 6]
    assert stats_of(looked).stopped is None


def test_an_interrupted_run_remembers_what_it_saw(ref, held_out, tmp_path):
    stop = StopConfig(max_kl=1e9, every=2, prompts=3)
    whole = train_here(ref, held_out, tmp_path / "whole", stop=stop)
    interrupt_at(5, ref, held_out, tmp_path / "run", stop=stop)
    out = train_here(ref, held_out, tmp_path / "run", stop=stop)
    assert (out / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()


def test_a_run_that_dies_after_its_stop_stops_there_again(ref, held_out, tmp_path, monkeypatch):
    stop = StopConfig(identity_rate=0.0, every=2, prompts=3)
    whole = train_here(ref, held_out, tmp_path / "whole", stop=stop, save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(child, "_save_model", interrupt)
        with pytest.raises(StopError):
            train_here(ref, held_out, tmp_path / "run", stop=stop, save_steps=1)
    out = train_here(ref, held_out, tmp_path / "run", stop=stop, save_steps=1)
    assert stats_of(out).steps == 2
    assert largest_difference(out, whole) == 0


def test_a_stop_that_leaves_nothing_to_judge_by_is_refused(ref, held_out, tmp_path):
    config = CONFIG.model_copy(update={"stop": StopConfig(prompts=6)})
    with pytest.raises(EvaluationError, match="leaves none of 6 held-out prompts"):
        train(make_job(ref, held_out, tmp_path, config))
