"""Training as its caller sees it: what is written, what is refused, what survives a crash."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trained import (
    CONFIG,
    PAIRS,
    history_of,
    largest_difference,
    make_job,
    pair,
    processes_with,
    train_child,
    write_pairs,
)

from dpo_pipeline.errors import DataError, ModelError, TrainingError
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.store.remote import mark
from dpo_pipeline.training import run
from dpo_pipeline.training.progress import SEAL
from dpo_pipeline.training.run import train


def test_train_writes_a_model_its_history_and_its_settings(ref, dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = CONFIG.model_copy(update={"report_to": ("tensorboard",)})
    job, seen = make_job(ref, dataset, tmp_path, config), []
    out = job.out
    record = train(job, lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(n, 6) for n in range(1, 7)]
    assert all("pairs/s" in step[2] for step in seen)
    assert record.pairs == PAIRS
    assert record.steps == 6
    assert (record.engine, record.precision) == ("shared-prefix", "fp32")
    history = history_of(out)
    assert [row["step"] for row in history] == list(range(1, 7))
    assert history[-1]["margin"] > history[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert history[0]["chosen_logp"] < -10
    assert all(v is not None for row in history for k, v in row.items() if k != "retention_kl")
    written = (out / "training.json").read_text()
    assert json.loads(written) == record.model_dump(mode="json")
    assert str(tmp_path) not in written
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.chat_template == load_tokenizer(ref).chat_template
    for name in ("config.json", "generation_config.json"):
        assert (out / "model" / name).read_bytes() == (ref.path / name).read_bytes()
    before = load_model(ref, "cpu", "float32").state_dict()
    assert all(not after.equal(before[name]) for name, after in model.state_dict().items())
    written = {path.suffix for folder in (out, out / "model") for path in folder.glob("*.*")}
    assert written == {".json", ".jsonl", ".safetensors", ".jinja"}
    logged = EventAccumulator(str(out / "tensorboard")).Reload()
    assert len(logged.Scalars("train/rewards/margins")) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": [], "chosen": []}], "lacks.*rejected"),
        ([pair(0, "same", "same"), pair(1)], r"rows \[0\]"),
        ([pair(0, "same", "same"), pair(1, "same", "same")], "0 usable pairs"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_named_before_anything_loads(
    ref, tmp_path, rows, message
):
    with pytest.raises(DataError, match=message):
        train_child(ref, write_pairs(tmp_path, rows), tmp_path / "run")
    assert not (tmp_path / "run" / "work").exists()


def test_no_rows_and_no_file_are_named(ref, tmp_path):
    with pytest.raises(DataError, match="is missing"):
        train_child(ref, tmp_path, tmp_path / "run")
    table = pa.Table.from_pylist([pair(0)]).slice(0, 0)
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no rows"):
        train_child(ref, tmp_path, tmp_path / "run")


def test_changed_settings_never_resume_from_old_checkpoints(ref, dataset, tmp_path):
    def look(**changes) -> None:
        config = CONFIG.model_copy(update=changes)
        run._keep_only_own_checkpoints(make_job(ref, dataset, tmp_path, config))

    old = tmp_path / "work" / "checkpoints" / "checkpoint-2"
    old.parent.parent.mkdir()
    look()
    old.mkdir(parents=True)
    look(save_steps=9)
    assert old.is_dir()
    look(beta=0.9)
    assert not old.exists()


@pytest.mark.slow
def test_a_broken_model_fails_with_its_own_error(ref, dataset, tmp_path):
    folder = shutil.copytree(ref.path, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError):
        train_child(describe_model(folder, "broken"), dataset, tmp_path / "run")


@pytest.mark.slow
def test_a_killed_child_is_an_error_and_the_next_run_goes_on(ref, dataset, tmp_path):
    def kill_at(step: int, total: int, note: str) -> None:
        if step == 3:
            job = str(tmp_path / "work" / "job.json")
            (child,) = processes_with(job)
            os.kill(child, signal.SIGKILL)

    job = make_job(ref, dataset, tmp_path, CONFIG)
    with pytest.raises(TrainingError, match="killed by signal 9"):
        train(job, kill_at)
    seen = []
    train(job, lambda step, *_: seen.append(step))
    assert seen[0] > 1
    train_child(ref, dataset, tmp_path / "whole")
    assert largest_difference(tmp_path / "out", tmp_path / "whole" / "out") == 0


@pytest.mark.slow
def test_another_machine_goes_on_from_the_checkpoints_of_one_that_died(ref, dataset, tmp_path):
    for machine in ("a", "b"):
        mark(tmp_path / machine, f"file://{tmp_path}/remote")

    def die_at(step: int, total: int, note: str) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_job(ref, dataset, tmp_path / "a", CONFIG), die_at)
    shutil.rmtree(tmp_path / "a")
    seen = []
    train(make_job(ref, dataset, tmp_path / "b", CONFIG), lambda step, *_: seen.append(step))
    assert seen[0] > 1
    train_child(ref, dataset, tmp_path / "whole")
    assert largest_difference(tmp_path / "b" / "out", tmp_path / "whole" / "out") == 0
    sealed = (tmp_path / "remote" / "work" / "checkpoints").glob(f"*/{SEAL}")
    assert sorted(path.parent.name for path in sealed) == ["checkpoint-4", "checkpoint-6"]
    assert list((tmp_path / "remote" / "references").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_child_dies_with_its_parent(ref, dataset, tmp_path, processes):
    config = CONFIG.model_copy(update={"epochs": 500.0, "processes": processes})
    script = (
        "import sys\n"
        "from dpo_pipeline.training.records import TrainJob\n"
        "from dpo_pipeline.training.run import train\n"
        "job = TrainJob.model_validate_json(sys.argv[1])\n"
        "train(job, lambda *step: print(step[0], flush=True))\n"
    )
    given = make_job(ref, dataset, tmp_path, config).model_dump_json()
    parent = subprocess.Popen(
        [sys.executable, "-c", script, given], stdout=subprocess.PIPE, text=True
    )
    assert int(parent.stdout.readline()) == 1
    job = str(tmp_path / "work" / "job.json")
    assert len(processes_with(job)) >= processes
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while processes_with(job) and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    assert not processes_with(job)


@pytest.mark.slow
def test_an_interrupt_of_the_caller_ends_the_child(ref, dataset, tmp_path):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_job(ref, dataset, tmp_path, CONFIG), interrupt)
    assert not processes_with(str(tmp_path / "work" / "job.json"))


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_rows_and_goes_on(ref, dataset, tmp_path, monkeypatch):
    # Each child loads this before anything else: more than 2 pairs at once do not fit.
    (tmp_path / "sitecustomize.py").write_text(
        "import dpo_pipeline.training.shared_prefixes as packing\n"
        "build = packing.build_tree\n"
        "def build_tree(sequences, *args):\n"
        "    if len(sequences) > 4:\n"
        "        raise MemoryError\n"
        "    return build(sequences, *args)\n"
        "packing.build_tree = build_tree\n"
    )
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")
    config = CONFIG.model_copy(update={"sft_weight": 0.0})
    write_pairs(tmp_path, [pair(i) for i in range(8)])
    record = train_child(ref, tmp_path, tmp_path / "run", config)
    assert record.micro_batch <= 2
    assert record.steps == 2
