"""Trainings of several processes: what starts them, and that they follow one process.

In float64, where the same sums in another order differ by some 1e-14.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from float64 import in_float64
from safetensors.numpy import load_file
from tiny import make_tiny_model
from trained import (
    CONFIG,
    history_of,
    largest_difference,
    make_job,
    processes_with,
    train_here,
    weights,
    write_answers,
)
from workplace import ROOT

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.models.references import ModelRef, describe_model
from dpo_pipeline.training.launching import launcher
from dpo_pipeline.training.records import child_module
from dpo_pipeline.training.run import train
from dpo_pipeline.training.settings import GoalConfig, LoraConfig, TrainConfig

SUPPORT = Path(__file__).parents[1] / "support"
FILES = ROOT / "configs" / "accelerate"
FULL = CONFIG.model_copy(update={"epochs": 2.0}).resolve("tiny")
NEVER = GoalConfig(identity_rate=1.0, max_kl=1e9, every=6)
HELD = {"retention_weight": 4.0, "retention_rows": 4, "completion_tokens": 8, "goal": NEVER}
METHODS = {
    "full": FULL,
    "lora": FULL.model_copy(update=HELD | {"method": "lora", "lora": LoraConfig(rank=4)}),
}


@pytest.mark.parametrize("file", sorted(FILES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_files_can_be_used(file):
    from accelerate.commands.config.config_args import ClusterConfig

    assert str(file) in launcher(TrainConfig(accelerate=str(file), processes=2))
    ClusterConfig.from_yaml_file(str(file))  # no key that accelerate does not know


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "No such file.*configs/accelerate has such files"),
        ("a: [", "line 1"),
        ("text", "distributed_type is None"),
        (
            "distributed_type: DEEPSPEED",
            "DEEPSPEED, and training is shared by MULTI_GPU or FSDP",
        ),
        (
            "distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}",
            "set fsdp_config.fsdp_version to 2",
        ),
        ("distributed_type: FSDP", "set fsdp_config.fsdp_version to 2"),
    ],
)
def test_a_file_that_is_not_carried_is_refused(tmp_path, written, said):
    file = tmp_path / "several.yaml"
    if written:
        file.write_text(written)
    with pytest.raises(TrainingError, match=said):
        launcher(TrainConfig(accelerate=str(file), processes=2))


def test_weights_of_4_bits_are_not_sharded():
    lora = LoraConfig(quantize=True, merge=False)
    config = TrainConfig(accelerate=str(FILES / "fsdp.yaml"), processes=2, method="lora", lora=lora)
    with pytest.raises(TrainingError, match="use MULTI_GPU"):
        launcher(config)


@pytest.fixture(scope="module")
def ref(tmp_path_factory) -> ModelRef:
    with in_float64():
        return describe_model(make_tiny_model(tmp_path_factory.mktemp("model")), "tiny")


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Path:
    return write_answers(tmp_path_factory.mktemp("held"))


@pytest.fixture(scope="module")
def alone(ref, dataset, held, tmp_path_factory) -> dict[str, Path]:
    """What one process makes, by method."""
    folder = tmp_path_factory.mktemp("alone")
    with in_float64():
        return {
            name: train_here(ref, dataset, folder / name, config, held)
            for name, config in METHODS.items()
        }


@pytest.fixture
def float64_children(monkeypatch) -> None:
    path = os.pathsep.join(map(str, (SUPPORT / "float64_children", SUPPORT, ROOT)))
    monkeypatch.setenv("PYTHONPATH", path)


def check_that_it_follows(out: Path, alone: Path, ref: ModelRef) -> None:
    before = load_file(ref.path / "model.safetensors")
    assert max(abs(after - before[name]).max() for name, after in weights(alone).items()) > 1e-4
    assert largest_difference(out, alone) < 1e-9
    ours, theirs = (
        [{k: v for k, v in row.items() if v is not None} for row in history_of(folder)]
        for folder in (out, alone)
    )
    del ours[0]["accuracy"], theirs[0]["accuracy"]  # by the sign of 0
    assert ours == [pytest.approx(row, rel=1e-9, abs=1e-9) for row in theirs]
    written = [sorted(p.relative_to(f) for p in f.rglob("*")) for f in (out, alone)]
    assert written[0] == written[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "file", "dies"),
    [
        ("full", None, False),
        ("full", "fsdp.yaml", True),
        ("lora", "ddp.yaml", True),
        ("lora", "fsdp.yaml", False),
    ],
)
def test_two_processes_follow_one_and_go_on_when_one_was_killed(
    ref, dataset, held, alone, tmp_path, float64_children, method, file, dies
):
    shared = {"processes": 2, "accelerate": file and str(FILES / file)}
    config = METHODS[method].model_copy(update=shared)
    job, seen = make_job(ref, dataset, tmp_path, config, held), []

    def kill_one_at(step: int, total: int, note: str) -> None:
        if step == 3:
            second = [p for p in processes_with(str(job.work / "job.json")) if rank_of(p) == 1]
            os.kill(*second, signal.SIGKILL)

    if dies:
        with pytest.raises(TrainingError, match="lost a process, killed by signal 9"):
            train(job, kill_one_at)
    record = train(job, lambda step, *_: seen.append(step))
    assert seen[0] == (3 if dies else 1)
    assert (record.micro_batch, record.steps) == (2, 12)
    check_that_it_follows(job.out, alone[method], ref)
    sharded = list(job.checkpoints.glob("*/pytorch_model_fsdp.bin"))
    assert bool(sharded) == (file == "fsdp.yaml")


def rank_of(process: int) -> int:
    environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((int(v[5:]) for v in environment if v.startswith(b"RANK=")), -1)


@pytest.mark.slow
def test_another_host_joins_and_both_follow_one_process(
    ref, dataset, alone, tmp_path, float64_children
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = {"main_process_ip": "127.0.0.1", "main_process_port": probe.getsockname()[1]}
    file = tmp_path / "hosts.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load((FILES / "hosts.yaml").read_text()) | here))
    config = FULL.model_copy(update={"processes": 2, "accelerate": str(file)})
    job = make_job(ref, dataset, tmp_path, config)
    joined = ["--machine_rank", "1", "-m", child_module(config), str(job.work / "job.json")]
    with subprocess.Popen([sys.executable, *launcher(config), *joined]) as other:
        record = train(job)
        assert other.wait() == 0
    assert record.micro_batch == 2
    check_that_it_follows(job.out, alone["full"], ref)
