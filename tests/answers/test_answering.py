"""What the ledger holds is not made twice, and what it loses is made again."""

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from asking import GREEDY, HERE, REQUESTS, SAMPLED, ask, made
from safetensors.torch import load_file, save_file

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.answering import ask as ask_shard
from dpo_pipeline.answers.records import Request, with_system
from dpo_pipeline.errors import StoreError
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.ledger import Ledger


def segments(ledger: Path) -> list[Path]:
    return sorted(ledger.rglob("*.jsonl"))


def test_only_new_prompts_are_answered(ref, tmp_path):
    assert made(ref, REQUESTS, tmp_path) == 24
    assert made(ref, REQUESTS, tmp_path) == 0
    more = [ask(f"And you, {i}?") for i in range(10)]
    assert made(ref, [*more, *REQUESTS, *more], tmp_path) == 10


@pytest.mark.parametrize(
    ("changed", "fresh"),
    [
        ({"batch_tokens": 300, "shard_rows": 3, "check_rows": 1, "concurrency": 2}, 0),
        ({"seed": 5, "top_p": 0.5}, 0),  # nothing is drawn
        ({"max_new_tokens": 25}, 3),
        ({"temperature": 0.5}, 3),
    ],
)
def test_answers_are_kept_by_what_decides_them(ref, tmp_path, changed, fresh):
    made(ref, REQUESTS[:3], tmp_path)
    config = GREEDY.model_copy(update=changed)
    assert made(ref, REQUESTS[:3], tmp_path, config) == fresh


def test_draws_are_kept_by_seed_nucleus_and_sample(ref, tmp_path):
    made(ref, REQUESTS[:3], tmp_path, SAMPLED)
    for change in ({"seed": 9}, {"top_p": 0.5}):
        assert made(ref, REQUESTS[:3], tmp_path, SAMPLED.model_copy(update=change)) == 3
    assert made(ref, [Request(REQUESTS[0].messages, 1)], tmp_path, SAMPLED) == 1


def test_answers_are_kept_by_weights_and_precision(ref, tmp_path):
    made(ref, REQUESTS[:3], tmp_path)
    other = shutil.copytree(ref.path, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({n: t * 2 for n, t in tensors.items()}, other / "model.safetensors", {"format": "pt"})
    assert made(describe_model(other, ref.name), REQUESTS[:3], tmp_path) == 3
    half = ModelConfig(device="cpu", dtype="bfloat16")
    assert made(ref, REQUESTS[:3], tmp_path, model=half) == 3
    moved = ref.model_copy(update={"name": "another name"})
    assert made(moved, REQUESTS[:3], tmp_path) == 0


def test_failures_are_not_kept(ref, tmp_path):
    requests = [REQUESTS[0], ask("Who " * 2000)]
    assert made(ref, requests, tmp_path) == 2
    assert made(ref, requests, tmp_path) == 1


@pytest.mark.parametrize("damage", ["torn", "flipped", "garbage", "half-written character"])
def test_a_damaged_line_is_dropped_and_made_again(ref, tmp_path, damage, caplog):
    expected = answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)
    (path,) = segments(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "torn":
        lines[-1] = lines[-1][:-1]
    elif damage == "flipped":
        lines[-1] = lines[-1].replace(b'"tokens":', b'"tokenz":')
    elif damage == "garbage":
        lines[-1] = b"\x00" * 100 + b"\n"
    else:
        lines[-1] = lines[-1][:-8] + b"\xe4\xb8\n"
    path.write_bytes(b"".join(lines))
    assert made(ref, REQUESTS, tmp_path) == 1
    assert "1 damaged lines dropped" in caplog.text
    assert answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path) == expected


def test_a_full_disk_says_so_and_loses_nothing_written(ref, tmp_path, monkeypatch):
    made(ref, REQUESTS[:5], tmp_path)
    with monkeypatch.context() as full:
        full.setattr(Ledger, "_open", lambda ledger: io.FileIO("/dev/full", "w"))
        with pytest.raises(StoreError, match=r"cannot write answers under .*No space left"):
            made(ref, REQUESTS, tmp_path)
    assert made(ref, REQUESTS, tmp_path) == 19


WRITER = """
import sys
from pathlib import Path
from dpo_pipeline.answers import answering
from dpo_pipeline.answers.records import Request
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.models.references import resolve_model
from dpo_pipeline.models.settings import ModelConfig

model, ledger, first, last, then = sys.argv[1:]
answering.SYNC_SECONDS = 0.0
requests = [
    Request(({"role": "user", "content": f"Who are you, {i}?"},))
    for i in range(int(first), int(last))
]

def report(done, wanted):
    print(done, flush=True)
    if then == "stay" and done >= wanted // 2:
        sys.stdin.read()

answering.answer(
    resolve_model(model), requests, model=ModelConfig(device="cpu", dtype="float32"),
    config=GenerationConfig(max_new_tokens=24), ledger=Path(ledger), on_progress=report,
)
"""


def writer(ref, ledger: Path, first: int, last: int, then: str = "end") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(ref.path), str(ledger), str(first), str(last), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        text=True,
    )


def test_a_kill_loses_only_what_was_in_flight(ref, tmp_path):
    process = writer(ref, tmp_path, 0, 40, then="stay")
    seen = 0
    while seen < 20:
        seen = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    requests = [ask(f"Who are you, {i}?") for i in range(40)]
    assert made(ref, requests, tmp_path) <= 21
    assert made(ref, requests, tmp_path) == 0
    expected = answer(ref, requests, model=HERE, config=GREEDY, ledger=tmp_path / "other")
    assert answer(ref, requests, model=HERE, config=GREEDY, ledger=tmp_path) == expected


def test_two_processes_may_write_at_once(ref, tmp_path):
    both = [writer(ref, tmp_path, 0, 30), writer(ref, tmp_path, 15, 45)]
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert len(segments(tmp_path)) == 2
    assert made(ref, [ask(f"Who are you, {i}?") for i in range(45)], tmp_path) == 0


def test_a_failure_outside_lets_the_next_one_in(ref, tmp_path):
    def fail(done: int, wanted: int) -> None:
        raise KeyError("outside")

    with pytest.raises(KeyError) as kept:
        answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path, on_progress=fail)
    assert made(ref, REQUESTS, tmp_path) == 23  # the one that was reported is kept
    assert kept.value.args == ("outside",)


def test_null_sends_no_system_message_and_an_empty_one_is_sent():
    user = {"role": "user", "content": "Who are you?"}
    assert with_system(None, [user]) == (user,)
    assert with_system("", [user]) == ({"role": "system", "content": ""}, user)


def test_shards_are_cut_alike_whatever_is_had_and_whoever_answers(ref, tmp_path):
    config, seen = GREEDY.model_copy(update={"shard_rows": 10}), []

    def elsewhere(ref, shards, how, alone):
        seen.append([len(shard) for shard in shards])
        assert how["model"].dtype == "float32"  # as it would be here, whatever hardware is there
        yield from reversed([dict(ask_shard(ref, shard, how, alone)) for shard in shards])

    here = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path / "here")
    made(ref, REQUESTS[8:12], tmp_path / "there", config)
    how = {"model": ModelConfig(device="cpu"), "config": config, "ledger": tmp_path / "there"}
    assert answer(ref, REQUESTS, **how, spread=elsewhere) == here
    assert seen == [[8, 8, 4]]  # 8 and 9 of the first shard, 10 and 11 of the second are had
    assert answer(ref, REQUESTS, **how, spread=elsewhere) == here
    assert len(seen) == 1
