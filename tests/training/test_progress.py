"""What happens after a step; runs that were cut short go on from a checkpoint that is whole."""

import shutil

import pytest
from disk_faults import fill_disk, full_disk
from float64 import in_float64
from tiny import make_tiny_model
from trained import CONFIG, count_steps, interrupt_at, largest_difference, stats_of, train_here

from dpo_pipeline.errors import StoreError, TrainingError
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.training import adapters, child, progress


def test_an_interrupted_run_goes_on_from_its_checkpoint(
    ref, dataset, tmp_path, monkeypatch, undisturbed
):
    interrupt_at(5, ref, dataset, tmp_path)
    steps = count_steps(monkeypatch)
    out = train_here(ref, dataset, tmp_path)
    assert steps == [5, 6]
    assert largest_difference(out, undisturbed) == 0
    assert (out / "history.jsonl").read_bytes() == (undisturbed / "history.jsonl").read_bytes()


@in_float64()
def test_smaller_rows_go_on_from_the_checkpoint_of_larger_ones(dataset, tmp_path, monkeypatch):
    ref = describe_model(make_tiny_model(tmp_path / "model"), "tiny")
    pure = CONFIG.model_copy(update={"sft_weight": 0.0})
    whole = train_here(ref, dataset, tmp_path / "whole", pure)
    interrupt_at(5, ref, dataset, tmp_path / "run", pure)
    steps = count_steps(monkeypatch)
    out = train_here(ref, dataset, tmp_path / "run", pure, row_tokens=150)
    assert steps == [5, 6]
    assert stats_of(out).micro_batch < 4
    assert largest_difference(out, whole) < 1e-9


@pytest.mark.parametrize("damage", ["cut", "unsealed", "empty seal"])
def test_a_damaged_checkpoint_gives_way_to_the_older_one(
    ref, dataset, tmp_path, monkeypatch, undisturbed, damage
):
    interrupt_at(5, ref, dataset, tmp_path)
    newest = tmp_path / "work" / "checkpoints" / "checkpoint-4"
    if damage == "cut":
        content = (newest / "model.safetensors").read_bytes()
        (newest / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "empty seal":
        (newest / "complete.json").write_text("")
    else:
        (newest / "complete.json").unlink()
    steps = count_steps(monkeypatch)
    out = train_here(ref, dataset, tmp_path)
    assert steps == [3, 4, 5, 6]
    assert largest_difference(out, undisturbed) == 0


FULL = {  # room in bytes -> what does not fit
    "what the reference says": (100, "references/"),
    "the weights of a checkpoint": (50_000, "checkpoints/checkpoint-2: .* about 0 MB"),
    "the rest of a checkpoint": (200_000, "checkpoints/checkpoint-2: .* about 0 MB"),
}


@pytest.mark.parametrize(("room", "place"), FULL.values(), ids=FULL.keys())
def test_a_full_disk_says_what_did_not_fit(ref, dataset, tmp_path, room, place):
    said = rf"cannot write {tmp_path}/.*{place}"
    with pytest.raises(StoreError, match=said) as full, full_disk(room):
        train_here(ref, dataset, tmp_path)
    assert "free some space" in str(full.value)
    assert not list(tmp_path.glob("work/checkpoints/checkpoint-*"))


# Of what, after what the disk is full, room in bytes, what does not fit.
FILLING = [
    (progress.Progress, "on_save", 1000, "checkpoint-4: .* earlier ones are kept"),
    (adapters, "settle_adapters", 50_000, "out/model: "),
    (child, "_save_model", 100, "out/history.jsonl: "),
]


@pytest.mark.slow
@pytest.mark.parametrize(("of", "done", "room", "place"), FILLING)
def test_a_disk_that_fills_costs_no_checkpoint(
    ref, dataset, tmp_path, undisturbed, of, done, room, place
):
    original = getattr(of, done)

    def fill(*args, **kwargs) -> None:
        original(*args, **kwargs)
        fill_disk(room)

    with full_disk(None), pytest.MonkeyPatch.context() as patch:
        patch.setattr(of, done, fill)
        with pytest.raises(StoreError, match=rf"cannot write {tmp_path}/.*{place}"):
            train_here(ref, dataset, tmp_path)
    assert progress.last_good(tmp_path / "work" / "checkpoints")
    shutil.rmtree(tmp_path / "out")
    assert largest_difference(train_here(ref, dataset, tmp_path), undisturbed) == 0


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_checkpoints(ref, dataset, tmp_path):
    with pytest.raises(TrainingError, match=r"Step \d: loss nan.*learning_rate"):
        train_here(ref, dataset, tmp_path, learning_rate=1e30, save_steps=1)
    kept = sorted((tmp_path / "work" / "checkpoints").glob("checkpoint-*"))
    assert kept
    assert not (tmp_path / "out" / "model").exists()
