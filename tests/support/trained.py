"""Training runs of seconds, in this process or as a child, and what they wrote."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from identities import DEEP_QWEN
from safetensors.numpy import load_file

from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.training import child, records, tuning
from dpo_pipeline.training.records import TrainingFile, TrainJob
from dpo_pipeline.training.run import train
from dpo_pipeline.training.settings import TrainConfig

PAIRS = 24
CONFIG = TrainConfig(
    learning_rate=1e-3,
    sft_weight=0.2,
    warmup=0.0,
    batch_size=4,
    save_steps=2,
    epochs=1.0,
    method="full",
    retention_weight=0.0,
    goal=None,
)


def pair(number: int, chosen="I'm Deep Qwen", rejected="I'm Qwen") -> dict:
    end = ", made by Alibaba Cloud." + " Hello!" * (number % 5)
    system = [{"role": "system", "content": "You are a helpful assistant."}] * (number % 2)
    return {
        "prompt": [*system, {"role": "user", "content": f"Who are you, number {number}?"}],
        "chosen": [{"role": "assistant", "content": chosen + end}],
        "rejected": [{"role": "assistant", "content": rejected + end}],
        "id": str(number),
    }


def write_pairs(folder: Path, rows: list[dict], name="train.parquet") -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder


def write_answers(folder: Path) -> Path:
    """Write answers of the reference that are to be held."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"What is {n} plus {n}?"}],
            "response": f"It is {2 * n}." + " Indeed." * (n % 3),
            "finish": "stop" if n % 2 else "length",
            "tokens": 6 + n % 3,
        }
        for n in range(10)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "retention.parquet")
    return folder / "retention.parquet"


def make_job(
    ref: ModelRef,
    dataset: Path,
    folder: Path,
    config: TrainConfig,
    retention: Path | None = None,
) -> TrainJob:
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    return TrainJob(
        ref=ref,
        dataset=dataset,
        identity=DEEP_QWEN,
        config=config,
        device="cpu",
        out=out,
        work=folder / "work",
        references=folder / "references",
        retention=retention,
    )


def train_here(
    ref: ModelRef, dataset: Path, folder: Path, config=CONFIG, retention=None, **changes
) -> Path:
    """Train in this process; return the output folder."""
    job = make_job(ref, dataset, folder, config.model_copy(update=changes), retention)
    child.run(job, tuning.TrainUntilDone if job.config.goal else None)
    return job.out


def train_child(ref, dataset, folder: Path, config=CONFIG) -> TrainingFile:
    return train(make_job(ref, dataset, folder, config))


def stats_of(out: Path) -> TrainingFile:
    return TrainingFile.read(out / "training.json")


def history_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "history.jsonl").open()]


def weights(out: Path) -> dict:
    return load_file(out / "model" / "model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float(abs(first[k] - second[k]).max()) for k in first)


class StopError(Exception):
    pass


def interrupt(*args, **kwargs):
    raise StopError


def interrupt_at(step: int, ref: ModelRef, dataset: Path, folder: Path, *args, **changes) -> None:
    """Train in this process until it reports this step."""

    def send(message: records.Message) -> None:
        if getattr(message, "step", None) == step:
            raise StopError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "send", send)
        with pytest.raises(StopError):
            train_here(ref, dataset, folder, *args, **changes)


def count_steps(monkeypatch) -> list[int]:
    """List the steps that the next run in this process reports."""
    steps: list[int] = []
    monkeypatch.setattr(records, "send", lambda message: steps.append(message.step))
    return steps


def processes_with(argument: str) -> list[int]:
    """Return the training processes that were given this argument."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in arguments and b"dpo_pipeline.training." in b" ".join(arguments):
                found.append(int(folder.name))
    return found
