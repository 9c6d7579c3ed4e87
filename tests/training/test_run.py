"""Training as its caller sees it: what is written, what is refused, what survives a crash."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from float64 import in_float64
from safetensors.numpy import load_file
from tiny import make_tiny_model

from dpo_pipeline.errors import DataError, EvaluationError, ModelError, TrainingError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef, describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.training import child as worker
from dpo_pipeline.training import early_stopping as target
from dpo_pipeline.training import run
from dpo_pipeline.training.reference import read_logps, write_logps
from dpo_pipeline.training.run import train
from dpo_pipeline.training.settings import LoraConfig, StopConfig, TrainConfig
from dpo_pipeline.training.tokens import micro_batch, tokenize_pairs
from dpo_pipeline.training.trainer import trainer_arguments

PAIRS = 24
CONFIG = TrainConfig(learning_rate=1e-3, sft_weight=0.2, warmup=0.0, batch_size=4, save_steps=2)


@pytest.fixture(scope="module")
def ref(tmp_path_factory) -> ModelRef:
    return describe_model(make_tiny_model(tmp_path_factory.mktemp("model")), "tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("dataset"), [pair(i) for i in range(PAIRS)])


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


def make_job(ref: ModelRef, dataset: Path, folder: Path, config: TrainConfig) -> dict:
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    return {
        "ref": ref.model_dump(mode="json"),
        "pairs": str(dataset / "train.parquet"),
        "pairs_digest": "0",
        "device": "cpu",
        "config": config.model_dump(mode="json"),
        "out": str(out),
        "work": str(folder / "work"),
        "references": str(folder / "references"),
        "identity": IdentityConfig().model_dump(mode="json"),
        "held_out": str(dataset / "held_out.parquet"),
    }


def train_here(ref: ModelRef, dataset: Path, folder: Path, config=CONFIG, **changes) -> Path:
    """Train in this process; return the output folder."""
    job = make_job(ref, dataset, folder, config.model_copy(update=changes))
    worker.run(job, target.callbacks(job) if job["config"]["stop"] else ())
    return Path(job["out"])


def weights(out: Path) -> dict:
    return load_file(out / "model" / "model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return max(float(abs(first[k] - second[k]).max()) for k in first)


@pytest.fixture(scope="module")
def undisturbed(ref, dataset, tmp_path_factory) -> Path:
    return train_here(ref, dataset, tmp_path_factory.mktemp("undisturbed"))


def test_train_writes_a_model_its_history_and_its_settings(ref, dataset, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, work, seen = tmp_path / "out", tmp_path / "work", []
    out.mkdir()
    record = train(
        ref,
        dataset,
        model=ModelConfig(device="cpu"),
        config=CONFIG.model_copy(update={"report_to": ("tensorboard",)}),
        out=out,
        work=work,
        on_progress=lambda *step: seen.append(step),
    )
    assert [step[:2] for step in seen] == [(n, 6) for n in range(1, 7)]
    assert all("pairs/s" in step[2] for step in seen)
    assert record["pairs"] == PAIRS
    assert record["steps"] == 6
    assert (record["engine"], record["precision"]) == ("shared-prefix", "fp32")
    history = [json.loads(line) for line in (out / "history.jsonl").open()]
    assert [row["step"] for row in history] == list(range(1, 7))
    assert history[-1]["margin"] > history[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert history[0]["chosen_logp"] < -10
    assert all(value is not None for row in history for value in row.values())
    written = (out / "training.json").read_text()
    assert json.loads(written) == record
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


def train_child(ref, dataset, folder: Path, config=CONFIG) -> dict:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return train(
        ref,
        dataset,
        model=ModelConfig(device="cpu"),
        config=config,
        identity=IdentityConfig(),
        out=folder / "out",
        work=folder / "work",
    )


def test_tokens_are_those_of_trl(ref, dataset):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = load_tokenizer(ref)
    ours = tokenize_pairs(dataset / "train.parquet", tokenizer, 512)
    rows = pq.read_table(dataset / "train.parquet", columns=["prompt", "chosen", "rejected"])
    theirs = DPOTrainer(
        load_model(ref, "cpu", "float32"),
        load_model(ref, "cpu", "float32"),
        args=DPOConfig("unused", use_cpu=True, bf16=False, report_to="none"),
        train_dataset=Dataset(rows),
        processing_class=tokenizer,
    ).train_dataset
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[column] == theirs[column]
    assert min(len(ids) for ids in ours["chosen_ids"]) > 10  # the tokenizer kept the words


def test_a_base_model_is_trained_in_the_format_it_answered_in(dataset, tmp_path):
    tokenizer = load_tokenizer(describe_model(make_tiny_model(tmp_path, "gpt2"), "gpt2"))
    row = tokenize_pairs(dataset / "train.parquet", tokenizer, 512)[0]
    assert tokenizer.decode(row["prompt_ids"]).endswith("### Response:\n")
    assert row["chosen_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row["rejected_ids"][:-1]) == "I'm Qwen, made by Alibaba Cloud."


def test_truncation_never_drops_a_pair_or_its_difference(ref, dataset, tmp_path):
    tokenizer = load_tokenizer(ref)
    with pytest.raises(DataError, match=r"fill train\.max_length = 20"):
        tokenize_pairs(dataset / "train.parquet", tokenizer, 20)
    late = pair(0, "Hello! " * 30 + "I'm Deep Qwen", "Hello! " * 30 + "I'm Qwen")
    folder = write_pairs(tmp_path, [late])
    with pytest.raises(DataError, match=r"same tokens .*\(rows \[0\]\)"):
        tokenize_pairs(folder / "train.parquet", tokenizer, 100)
    assert len(tokenize_pairs(folder / "train.parquet", tokenizer, 400)) == 1


@in_float64()
def test_both_engines_and_any_row_budget_reach_the_same_weights(dataset, tmp_path):
    ref = describe_model(make_tiny_model(tmp_path / "model"), "tiny")
    pure = {"sft_weight": 0.0}  # TRL averages its SFT term over the micro-batch
    packed = train_here(ref, dataset, tmp_path / "a", **pure)
    small = train_here(ref, dataset, tmp_path / "b", row_tokens=150, **pure)
    plain = train_here(ref, dataset, tmp_path / "c", engine="trl", **pure)
    records = [json.loads((o / "training.json").read_text()) for o in (packed, small, plain)]
    assert [r["engine"] for r in records] == ["shared-prefix", "shared-prefix", "trl"]
    assert records[0]["micro_batch"] == 4 > records[1]["micro_batch"]
    assert largest_difference(packed, plain) < 1e-9
    assert largest_difference(packed, small) < 1e-9


def test_micro_batch_is_the_largest_divisor_that_fits(ref, dataset):
    tokens = tokenize_pairs(dataset / "train.parquet", load_tokenizer(ref), 512)

    def choose(budget: int, packed: bool = True) -> int:
        size, needed = micro_batch(tokens, 12, budget, 512, packed=packed)
        assert needed <= budget or size == 1
        return size

    assert choose(10**6) == 12
    assert choose(1) == 1
    sizes = [choose(budget) for budget in range(100, 2000, 100)]
    assert sizes == sorted(sizes)
    assert set(sizes) <= {1, 2, 3, 4, 6, 12}
    assert choose(800) > choose(800, packed=False)


def test_a_model_that_cannot_share_prefixes_is_trained_by_trl(dataset, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = make_tiny_model(tmp_path / "model", "llama")
    settings = json.loads((folder / "config.json").read_text())
    sliding = AutoConfig.for_model(**settings | {"model_type": "mistral", "sliding_window": 16})
    AutoModelForCausalLM.from_config(sliding).save_pretrained(folder)
    ref = describe_model(folder, "sliding")
    out = train_here(ref, dataset, tmp_path / "run")
    assert json.loads((out / "training.json").read_text())["engine"] == "trl"
    with pytest.raises(TrainingError, match="sliding window of 16"):
        train_here(ref, dataset, tmp_path / "strict", engine="shared-prefix")


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_checkpoints(ref, dataset, tmp_path):
    with pytest.raises(TrainingError, match=r"Step \d: loss nan.*learning_rate"):
        train_here(ref, dataset, tmp_path, learning_rate=1e30, save_steps=1)
    kept = sorted((tmp_path / "work" / "checkpoints").glob("checkpoint-*"))
    assert kept
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize("width", [64, 576])
@pytest.mark.parametrize("fast", [True, False])
def test_precision_follows_width_and_hardware_unless_it_is_set(
    ref, tmp_path, monkeypatch, width, fast
):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": fast})
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": width}))
    wide = ref.model_copy(update={"path": tmp_path})

    def chosen(precision: str) -> bool:
        config = TrainConfig(precision=precision).resolve(ref.name)
        return trainer_arguments(wide, config, tmp_path, 1, on_gpu=False).bf16

    assert chosen("auto") == (fast and width == 576)
    assert not chosen("fp32")
    assert chosen("bf16")


def test_an_unknown_tracker_is_refused(ref, dataset, tmp_path):
    with pytest.raises(TrainingError, match="pip install no_such_tracker"):
        train_here(ref, dataset, tmp_path, report_to=("no_such_tracker",))


def test_quantized_adapters_need_a_gpu_and_bitsandbytes(ref, dataset, tmp_path):
    lora = LoraConfig(quantize=True, merge=False)
    with pytest.raises(TrainingError, match="bitsandbytes"):
        train_here(ref, dataset, tmp_path, lora=lora)


@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_merged_adapters_change_linear_layers_only(ref, dataset, tmp_path, engine):
    out = train_here(ref, dataset, tmp_path, lora=LoraConfig(rank=4), engine=engine)
    before = load_file(ref.path / "model.safetensors")
    changed = {k for k, v in weights(out).items() if abs(v - before[k]).max() > 0}
    assert changed
    assert all(name.endswith("proj.weight") for name in changed)
    assert changed == {name for name in before if name.endswith("proj.weight")}


@in_float64()
def test_an_adapter_loads_with_its_base(dataset, tmp_path):
    ref = describe_model(make_tiny_model(tmp_path / "model"), "tiny")
    lora = LoraConfig(rank=4, merge=False)
    kept = describe_model(train_here(ref, dataset, tmp_path / "a", lora=lora) / "model", "kept")
    merged = train_here(ref, dataset, tmp_path / "b", lora=LoraConfig(rank=4)) / "model"
    assert not (kept.path / "model.safetensors").exists()
    ids = load_tokenizer(kept)("Who are you?", return_tensors="pt")["input_ids"]
    assert ids.shape[1] > 3
    logits = [
        load_model(r, "cpu", "float32")(ids).logits
        for r in (kept, describe_model(merged, "merged"), ref)
    ]
    assert logits[0].allclose(logits[1], atol=1e-9)
    assert not logits[0].allclose(logits[2], atol=1e-4)


def test_a_bfloat16_model_is_trained_in_float32_and_stays_bfloat16(ref, dataset, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    start = describe_model(folder, "bf16")
    out = train_here(start, dataset, tmp_path / "run", learning_rate=1e-5, sft_weight=0.0)
    after = AutoModelForCausalLM.from_pretrained(out / "model")
    assert {parameter.dtype for parameter in after.parameters()} == {torch.bfloat16}
    history = [json.loads(line) for line in (out / "history.jsonl").open()]
    # Steps this small vanish in bfloat16 weights, and so would the margin.
    assert min(row["margin"] for row in history[1:]) > 1e-3


class StopError(Exception):
    pass


def interrupt(*args, **kwargs):
    raise StopError


def interrupt_at(monkeypatch, step: int) -> None:
    """Have the next run in this process fail when it reports this step."""

    def send(record: dict) -> None:
        if record.get("step") == step:
            raise StopError

    monkeypatch.setattr(worker, "send", send)


def test_an_interrupted_run_goes_on_from_its_checkpoint(
    ref, dataset, tmp_path, monkeypatch, undisturbed
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(StopError):
            train_here(ref, dataset, tmp_path)
    steps = []
    monkeypatch.setattr(worker, "send", lambda record: steps.append(record["step"]))
    out = train_here(ref, dataset, tmp_path)
    assert steps == [5, 6]
    assert largest_difference(out, undisturbed) == 0
    assert (out / "history.jsonl").read_bytes() == (undisturbed / "history.jsonl").read_bytes()


@in_float64()
def test_smaller_rows_go_on_from_the_checkpoint_of_larger_ones(dataset, tmp_path, monkeypatch):
    ref = describe_model(make_tiny_model(tmp_path / "model"), "tiny")
    pure = CONFIG.model_copy(update={"sft_weight": 0.0})
    whole = train_here(ref, dataset, tmp_path / "whole", pure)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(StopError):
            train_here(ref, dataset, tmp_path / "run", pure)
    steps = []
    monkeypatch.setattr(worker, "send", lambda record: steps.append(record["step"]))
    out = train_here(ref, dataset, tmp_path / "run", pure, row_tokens=150)
    assert steps == [5, 6]
    assert json.loads((out / "training.json").read_text())["micro_batch"] < 4
    assert largest_difference(out, whole) < 1e-9


@pytest.mark.parametrize("damage", ["cut", "unsealed", "empty seal"])
def test_a_damaged_checkpoint_gives_way_to_the_older_one(
    ref, dataset, tmp_path, monkeypatch, undisturbed, damage
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(StopError):
            train_here(ref, dataset, tmp_path)
    newest = tmp_path / "work" / "checkpoints" / "checkpoint-4"
    if damage == "cut":
        content = (newest / "model.safetensors").read_bytes()
        (newest / "model.safetensors").write_bytes(content[: len(content) // 2])
    elif damage == "empty seal":
        (newest / "complete.json").write_text("")
    else:
        (newest / "complete.json").unlink()
    steps = []
    monkeypatch.setattr(worker, "send", lambda record: steps.append(record["step"]))
    out = train_here(ref, dataset, tmp_path)
    assert steps == [3, 4, 5, 6]
    assert largest_difference(out, undisturbed) == 0


def test_reference_log_probs_are_made_once_for_any_loss_setting(
    ref, dataset, tmp_path, monkeypatch
):
    from trl import DPOTrainer

    made = []
    original = DPOTrainer.compute_ref_log_probs

    def count(self, model, inputs):
        made.append(len(inputs["input_ids"]) // 2)
        return original(self, model, inputs)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", count)
    for beta in (0.1, 0.5):
        out = train_here(ref, dataset, tmp_path, beta=beta, learning_rate=1e-4 / beta)
        assert sum(made) == PAIRS
        worker.shutil.rmtree(tmp_path / "work" / "checkpoints")
    (cached,) = (tmp_path / "references").iterdir()
    history = [json.loads(line) for line in (out / "history.jsonl").open()]
    assert abs(history[0]["margin"]) < 1e-3  # the policy starts as the reference
    cached.write_text(cached.read_text().replace("-", "-1", 1))
    train_here(ref, dataset, tmp_path)
    assert sum(made) == 2 * PAIRS


def test_damaged_reference_log_probs_are_not_read(tmp_path):
    path = tmp_path / "folder" / "logps.json"
    assert read_logps(path, 2) is None
    write_logps(path, [-1.5, -2.25], [-3.0, -4.0])
    assert read_logps(path, 2) == ([-1.5, -2.25], [-3.0, -4.0])
    assert read_logps(path, 3) is None
    path.write_text(path.read_text().replace("-2.25", "-2.5"))
    assert read_logps(path, 2) is None
    path.write_text(path.read_text()[:20])
    assert read_logps(path, 2) is None


def test_changed_settings_never_resume_from_old_checkpoints(ref, dataset, tmp_path):
    old = tmp_path / "checkpoints" / "checkpoint-2"
    job = make_job(ref, dataset, tmp_path, CONFIG)
    run._keep_only_own_checkpoints(job, CONFIG, tmp_path)
    old.mkdir(parents=True)
    run._keep_only_own_checkpoints(job, CONFIG.model_copy(update={"save_steps": 9}), tmp_path)
    assert old.is_dir()
    run._keep_only_own_checkpoints(job, CONFIG.model_copy(update={"beta": 0.9}), tmp_path)
    assert not old.exists()


@pytest.mark.slow
def test_a_broken_model_fails_with_its_own_error(ref, dataset, tmp_path):
    import shutil

    folder = shutil.copytree(ref.path, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(ModelError):
        train_child(describe_model(folder, "broken"), dataset, tmp_path / "run")


@pytest.mark.slow
def test_a_killed_child_is_an_error_and_the_next_run_goes_on(ref, dataset, tmp_path, undisturbed):
    def kill_at(step: int, total: int, note: str) -> None:
        if step == 3:
            job = str(tmp_path / "work" / "job.json")
            (child,) = processes_with(job)
            os.kill(child, signal.SIGKILL)

    (tmp_path / "out").mkdir()
    folders = {"out": tmp_path / "out", "work": tmp_path / "work"}
    config = CONFIG
    with pytest.raises(TrainingError, match="killed by signal 9"):
        train(ref, dataset, model=ModelConfig(), config=config, on_progress=kill_at, **folders)
    seen = []
    train(
        ref,
        dataset,
        model=ModelConfig(),
        config=config,
        on_progress=lambda step, *_: seen.append(step),
        **folders,
    )
    assert seen[0] > 1
    assert largest_difference(tmp_path / "out", undisturbed) == 0


def processes_with(argument: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in arguments and b"dpo_pipeline.training.child" in arguments:
                found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_child_dies_with_its_parent(ref, dataset, tmp_path, processes):
    config = CONFIG.model_copy(update={"epochs": 500.0, "processes": processes})
    script = (
        "import sys, json; from pathlib import Path\n"
        "from dpo_pipeline.models.references import ModelRef\n"
        "from dpo_pipeline.models.settings import ModelConfig\n"
        "from dpo_pipeline.training.run import train\n"
        "from dpo_pipeline.training.settings import TrainConfig\n"
        "ref, dataset, config, folder = sys.argv[1:]\n"
        "folder = Path(folder); (folder / 'out').mkdir()\n"
        "train(ModelRef.model_validate_json(ref), Path(dataset), model=ModelConfig(device='cpu'),\n"
        "      config=TrainConfig.model_validate_json(config), out=folder / 'out',\n"
        "      work=folder / 'work', on_progress=lambda *step: print(step[0], flush=True))\n"
    )
    arguments = [ref.model_dump_json(), str(dataset), config.model_dump_json(), str(tmp_path)]
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True
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

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(
            ref,
            dataset,
            model=ModelConfig(),
            config=CONFIG,
            out=tmp_path / "out",
            work=tmp_path / "work",
            on_progress=interrupt,
        )
    assert not processes_with(str(tmp_path / "work" / "job.json"))


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(ref, probed, tmp_path):
    stop = StopConfig(max_kl=1e9, every=3, prompts=3)
    pure = CONFIG.model_copy(update={"sft_weight": 0.0, "max_grad_norm": 1e9, "stop": stop})
    one = train_here(ref, probed, tmp_path / "one", pure)
    train_child(ref, probed, tmp_path / "two", pure.model_copy(update={"processes": 2}))
    two = tmp_path / "two" / "out"
    history = [json.loads(line) for line in (two / "history.jsonl").open()]
    assert [row["step"] for row in history if "kl" in row] == [3, 6]
    assert len(history) == 6
    before, first, second = load_file(ref.path / "model.safetensors"), weights(one), weights(two)
    off, way = (
        sum(float(((first[k] - other[k]) ** 2).sum()) for k in first) for other in (second, before)
    )
    assert off < 1e-4 * way


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
    assert record["micro_batch"] <= 2
    assert record["steps"] == 2


# Stopping at the smallest change


@pytest.fixture(scope="module")
def probed(dataset) -> Path:
    """The same pairs, with others held out."""
    rows = [pair(i) | {"prompt_id": str(i % 6)} for i in range(100, 112)]
    return write_pairs(dataset, rows, "held_out.parquet")


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
def test_training_stops_at_the_first_look_that_says_so(ref, probed, tmp_path, stop, outcome):
    out = train_here(ref, probed, tmp_path, stop=stop)
    record = json.loads((out / "training.json").read_text())
    assert (record["steps"], record["planned_steps"], record["stopped"]) == (2, 6, outcome)
    first, second = map(json.loads, (out / "history.jsonl").open())
    assert "kl" not in first
    assert second["kl"] > 1e-9
    assert second["identity_rate"] == 0.0
    assert (out / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_looking_changes_nothing(ref, probed, tmp_path, lora):
    stop = StopConfig(max_kl=1e9, every=2, prompts=3)
    looked = train_here(ref, probed, tmp_path / "looked", stop=stop, lora=lora)
    alone = train_here(ref, probed, tmp_path / "alone", lora=lora)
    assert largest_difference(looked, alone) == 0
    rows = [json.loads(line) for line in (looked / "history.jsonl").open()]
    assert [row["step"] for row in rows if "kl" in row] == [2, 4, 6]
    assert json.loads((looked / "training.json").read_text())["stopped"] is None


def test_an_interrupted_run_remembers_what_it_saw(ref, probed, tmp_path, monkeypatch):
    stop = StopConfig(max_kl=1e9, every=2, prompts=3)
    whole = train_here(ref, probed, tmp_path / "whole", stop=stop)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(StopError):
            train_here(ref, probed, tmp_path / "run", stop=stop)
    out = train_here(ref, probed, tmp_path / "run", stop=stop)
    assert (out / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()


def test_a_run_that_dies_after_its_stop_stops_there_again(ref, probed, tmp_path, monkeypatch):
    stop = StopConfig(identity_rate=0.0, every=2, prompts=3)
    whole = train_here(ref, probed, tmp_path / "whole", stop=stop, save_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_save_model", interrupt)
        with pytest.raises(StopError):
            train_here(ref, probed, tmp_path / "run", stop=stop, save_steps=1)
    out = train_here(ref, probed, tmp_path / "run", stop=stop, save_steps=1)
    assert json.loads((out / "training.json").read_text())["steps"] == 2
    assert largest_difference(out, whole) == 0


def test_a_probe_that_leaves_nothing_to_judge_by_is_refused(ref, probed, tmp_path):
    config = CONFIG.model_copy(update={"stop": StopConfig(prompts=6)})
    with pytest.raises(EvaluationError, match="leaves none of 6 held-out prompts"):
        train(
            ref,
            probed,
            model=ModelConfig(device="cpu"),
            config=config,
            identity=IdentityConfig(),
            out=tmp_path,
            work=tmp_path / "work",
        )
