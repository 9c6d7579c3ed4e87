import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import make_tiny_model

from dpo_pipeline.answers import answering
from dpo_pipeline.answers import collecting as generation
from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.census import probe_identity
from dpo_pipeline.answers.collecting import collect_responses, generate_shard, plan_shards
from dpo_pipeline.answers.records import Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError, StoreError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.chat_templates import encode
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import resolve_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.ledger import Ledger

HERE = ModelConfig(device="cpu", dtype="float32")
SYSTEMS = (None, "You are a helpful assistant.")
GREEDY = GenerationConfig(system_prompts=SYSTEMS, max_new_tokens=24)
SAMPLED = GREEDY.model_copy(update={"temperature": 1.0, "top_p": 0.9, "seed": 3})


def ask(text: str, system: str | None = None) -> Request:
    first = [] if system is None else [{"role": "system", "content": system}]
    return Request((*first, {"role": "user", "content": text}))


# Prompts of many lengths, whose answers end at many lengths.
REQUESTS = [ask(f"Who are you {i * 37}? {'abc ' * (i % 7)}") for i in range(24)]


@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2"])
def any_ref(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    return resolve_model(str(make_tiny_model(folder, request.param, seed=1)))


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    return resolve_model(str(make_tiny_model(folder, "qwen2", seed=1)))


def one_by_one(ref, requests: list[Request], tokens: int) -> list[tuple[str, int]]:
    """Answer as the plainest use of transformers does: text and length."""
    import torch

    model, tokenizer = load_model(ref, "cpu", "float32"), load_tokenizer(ref)
    ends, answers = {0} if "gpt2" in str(ref.path) else {2}, []
    for request in requests:
        ids = torch.tensor([encode(tokenizer, request.messages)])
        assert ids.shape[1] > 10
        said = model.generate(
            input_ids=ids, attention_mask=ids * 0 + 1, max_new_tokens=tokens, do_sample=False
        )[0, ids.shape[1] :].tolist()
        said = [token for token in said if token not in ends]
        answers.append((tokenizer.decode(said, skip_special_tokens=True), len(said)))
    return answers


# Answers do not depend on how they are made


def test_batched_answers_equal_one_by_one_greedy_generation(any_ref, tmp_path):
    expected = one_by_one(any_ref, REQUESTS, 24)
    found = answer(any_ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)
    assert [(r.text, r.tokens) for r in found] == expected
    finishes = Counter(r.finish for r in found)
    assert min(finishes["stop"], finishes["length"]) >= 2, finishes
    assert len({r.tokens for r in found}) > 4
    assert all((r.tokens == 24) == (r.finish == "length") for r in found)


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_answers_do_not_depend_on_batch_order_or_engine(any_ref, tmp_path, config):
    whole = answer(any_ref, REQUESTS, model=HERE, config=config, ledger=tmp_path / "a")
    small = config.model_copy(update={"batch_tokens": 250})
    backwards = answer(any_ref, REQUESTS[::-1], model=HERE, config=small, ledger=tmp_path / "b")
    assert backwards[::-1] == whole
    one = answer(any_ref, REQUESTS[5:6], model=HERE, config=config, ledger=tmp_path / "c")
    assert one == whole[5:6]
    alone = answer(any_ref, REQUESTS, model=HERE, config=config, ledger=tmp_path / "d", alone=True)
    assert alone == whole


def test_a_draw_depends_on_seed_and_sample_and_follows_the_distribution(ref, tmp_path):
    import torch

    config = SAMPLED.model_copy(update={"max_new_tokens": 1, "top_p": 1.0})
    requests = [Request(REQUESTS[0].messages, sample) for sample in range(1500)]
    first = answer(ref, requests, model=HERE, config=config, ledger=tmp_path)
    other = answer(
        ref, requests, model=HERE, config=config.model_copy(update={"seed": 4}), ledger=tmp_path
    )
    assert first != other
    model, tokenizer = load_model(ref, "cpu", "float32"), load_tokenizer(ref)
    ids = torch.tensor([encode(tokenizer, REQUESTS[0].messages)])
    mass = model(ids).logits[0, -1].softmax(-1)
    said = Counter(r.text for r in first)
    for token in mass.topk(3).indices.tolist():
        text = "" if token in tokenizer.all_special_ids else tokenizer.decode([token])
        share = sum(m for t, m in enumerate(mass.tolist()) if tokenizer.decode([t]) == text)
        if text:
            assert said[text] / len(first) == pytest.approx(share, abs=0.05)


def test_the_nucleus_holds_the_likeliest_tokens_and_no_other():
    import torch

    from dpo_pipeline.answers.decoding import Row, choose

    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log().repeat(400, 1)
    rows = [Row(str(i), [1], ends=(), limit=1, seed=i).restart() for i in range(400)]

    def drawn(top_p: float) -> set[int]:
        return set(choose(logits, rows, GenerationConfig(temperature=1.0, top_p=top_p)))

    assert drawn(0.5) == {1}
    assert drawn(0.7) == {1, 3}
    assert drawn(0.8) == {1, 2, 3}
    assert drawn(1.0) == {0, 1, 2, 3}


def test_bfloat16_answers_as_generate_does_in_bfloat16(ref, tmp_path):
    half = ModelConfig(device="cpu", dtype="bfloat16")
    slots = answer(ref, REQUESTS, model=half, config=GREEDY, ledger=tmp_path)
    alone = answer(ref, REQUESTS, model=half, config=GREEDY, ledger=tmp_path, alone=True)
    # Rounding may tip a near tie; most answers are the same to the letter.
    assert sum(a == b for a, b in zip(slots, alone, strict=True)) > len(REQUESTS) * 0.6


def test_a_shipped_generation_config_does_not_decide(ref, tmp_path):
    folder = Path(shutil.copytree(ref.path, tmp_path / "model"))
    expected = answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)
    path = folder / "generation_config.json"
    shipped = {"do_sample": True, "temperature": 3.0, "repetition_penalty": 5.0, "top_k": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | shipped))
    other = resolve_model(str(folder))
    for alone in (False, True):
        found = answer(other, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path, alone=alone)
        assert found == expected


def test_an_answer_ends_at_the_token_the_template_writes(ref, tmp_path):
    # The tokenizer and the config name another end token, as some published models do.
    folder = Path(shutil.copytree(ref.path, tmp_path / "model"))
    for name, field in (
        ("generation_config.json", "eos_token_id"),
        ("config.json", "eos_token_id"),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: 0}))
    path = folder / "tokenizer_config.json"
    text = json.loads(path.read_text()) | {"eos_token": "<|endoftext|>"}
    path.write_text(json.dumps(text))
    expected = answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)
    found = answer(resolve_model(str(folder)), REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)
    both = [(a, b) for a, b in zip(expected, found, strict=True) if a.finish == "stop"]
    assert len(both) > 4
    assert all(a.text.startswith(b.text) for a, b in both)  # either token may come first
    assert all("im_end" not in r.text for r in found)


# What cannot be asked, and memory


def test_a_prompt_longer_than_the_model_takes_fails_alone(ref, tmp_path):
    requests = [REQUESTS[0], ask("Who " * 2000), ask("x" * 20)]
    found = answer(ref, requests, model=HERE, config=GREEDY, ledger=tmp_path)
    assert [r.finish == "error" for r in found] == [False, True, False]
    length = len(encode(load_tokenizer(ref), requests[1].messages))
    assert found[1].reason == "too_long"
    assert found[1].detail == f"{length} tokens, and the model takes 1 to 1023"
    assert (found[1].text, found[1].tokens) == ("", 0)


def test_an_answer_is_cut_where_the_positions_end(ref, tmp_path):
    tokenizer = load_tokenizer(ref)
    words = 1
    while len(encode(tokenizer, ask("Who " * (words + 1)).messages)) < 1020:
        words += 1
    request = ask("Who " * words)
    room = 1024 - len(encode(tokenizer, request.messages))
    assert room < 24
    for alone in (False, True):
        (found,) = answer(ref, [request], model=HERE, config=GREEDY, ledger=tmp_path, alone=alone)
        assert found.finish == "stop" or found.tokens == room


def test_messages_the_template_refuses_fail_alone(ref, tmp_path):
    folder = Path(shutil.copytree(ref.path, tmp_path / "model"))
    path = folder / "chat_template.jinja"
    refusal = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    path.write_text(refusal + path.read_text())
    other = resolve_model(str(folder))
    requests = [ask("Who are you?"), ask("Who are you?", "Be brief.")]
    found = answer(other, requests, model=HERE, config=GREEDY, ledger=tmp_path)
    assert found[0].finish != "error"
    assert (found[1].reason, found[1].detail) == ("template_error", "no system")
    assert answer(other, requests[1:], model=HERE, config=GREEDY, ledger=tmp_path) == found[1:]


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_out_of_memory_halves_the_batch_and_changes_no_answer(ref, tmp_path, monkeypatch, config):
    import torch

    from dpo_pipeline.answers.decoding import SlotCache

    expected = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path / "a")
    fits, sizes, aim = 5, [], SlotCache.aim

    def scarce(cache, at):
        sizes.append(len(at))
        if len(at) > fits and int(at.max()) > 60:
            raise torch.OutOfMemoryError("no more")
        return aim(cache, at)

    monkeypatch.setattr(SlotCache, "aim", scarce)
    found = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path / "b")
    assert found == expected
    assert max(sizes) > fits
    assert min(sizes) <= fits


def test_out_of_memory_with_one_row_says_what_to_do(ref, tmp_path, monkeypatch):
    from dpo_pipeline.answers.decoding import SlotCache

    def full(cache, at):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr("dpo_pipeline.answers.decoding.slots_agree", lambda *_: True)
    monkeypatch.setattr(SlotCache, "aim", full)
    with pytest.raises(GenerationError, match=r"one prompt of \d+ tokens.*lower max_new_tokens"):
        answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)


SHAPE = {
    "vocab_size": 509, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
OTHERS = {  # what each has that slots must serve, or leave to the padded batches
    "window longer than the rows": ("mistral", {"sliding_window": 512}),
    "window shorter than the answer": ("mistral", {"sliding_window": 64}),
    "window shorter than the prompt": ("mistral", {"sliding_window": 16}),
    "plain attention, soft caps": ("gemma2", {"head_dim": 8}),
    "plain attention, other positions": ("gptj", {**GPT, "rotary_dim": 4}),
    "attention sinks, experts": ("gpt_oss", {"head_dim": 8, "num_local_experts": 4}),
    "a local layer that no cache tells of": (
        "gpt_neo",
        {"attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 8},
    ),
    "positions from the mask": ("bloom", {"n_layer": 2, "n_head": 4}),
    "a layer without keys": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_architectures_answer_as_they_do_alone(tmp_path, case):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    arch, special = OTHERS[case]
    folder = make_tiny_model(tmp_path / "model", "llama")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(arch, **{**SHAPE, **special}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    ref = resolve_model(str(folder))
    expected = one_by_one(ref, REQUESTS[:8], 24)
    found = answer(ref, REQUESTS[:8], model=HERE, config=GREEDY, ledger=tmp_path)
    assert [(r.text, r.tokens) for r in found] == expected
    assert len({text for text, _ in expected}) > 2


# The ledger


def made(ref, requests, ledger, config=GREEDY, model=HERE) -> int:
    """Answer requests and tell how many answers were not in the ledger."""
    fresh = 0

    def count(done: int, wanted: int) -> None:
        nonlocal fresh
        fresh += 1

    answer(ref, requests, model=model, config=config, ledger=ledger, on_progress=count)
    return fresh


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


def test_answers_are_kept_by_weights_template_and_precision(ref, tmp_path):
    made(ref, REQUESTS[:3], tmp_path)
    for field in ("weights_digest", "template_digest"):
        assert made(ref.model_copy(update={field: "0" * 64}), REQUESTS[:3], tmp_path) == 3
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


def test_a_ledger_gives_what_is_wanted_and_nothing_else(tmp_path):
    book = Ledger(tmp_path, {"weights": "x"})
    book.append({"aa": {"text": '{"key":"bb"}'}, "bb": {"text": "é"}, "cc": {"text": ""}})
    book.close()
    assert book.read({"bb", "dd"}) == {"bb": {"text": "é"}}
    assert book.read({"aa", "bb", "cc"}).keys() == {"aa", "bb", "cc"}


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
from dpo_pipeline import generation
from dpo_pipeline.config import GenerationConfig, ModelConfig
from dpo_pipeline.models import resolve_model

model, ledger, first, last, then = sys.argv[1:]
generation.SYNC_SECONDS = 0.0
requests = [
    generation.Request(({"role": "user", "content": f"Who are you, {i}?"},))
    for i in range(int(first), int(last))
]

def report(done, wanted):
    print(done, flush=True)
    if then == "stay" and done >= wanted // 2:
        sys.stdin.read()

generation.answer(
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


def test_threads_take_turns_at_the_model(ref, tmp_path):
    found: dict[int, list[Response]] = {}

    def work(i: int) -> None:
        part = REQUESTS[i * 8 : i * 8 + 8]
        found[i] = answer(ref, part, model=HERE, config=GREEDY, ledger=tmp_path)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path / "other")
    assert [r for i in range(3) for r in found[i]] == expected


def test_a_failure_outside_lets_the_next_one_in(ref, tmp_path):
    def fail(done: int, wanted: int) -> None:
        raise KeyError("outside")

    with pytest.raises(KeyError) as kept:
        answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path, on_progress=fail)
    assert made(ref, REQUESTS, tmp_path) == 23  # the one that was reported is kept
    assert kept.value.args == ("outside",)


# From prompts.parquet to responses.parquet


def write_prompts(path: Path, count: int) -> Path:
    rows = [
        {
            "id": f"p{i}",
            "messages": [{"role": "user", "content": f"Who are you, {i}?"}],
            "split": "held_out" if i % 5 == 0 else "train",
            "family": "name",
            "language": "en",
            "turns": 1,
            "source_row": i + 100,
            "given_chosen": None,
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_shards_cover_every_prompt_once(tmp_path):
    prompts = write_prompts(tmp_path / "prompts.parquet", 23)
    config = GREEDY.model_copy(update={"shard_rows": 10})  # two system prompts: 5 prompts
    shards = plan_shards(prompts, config)
    assert [i for start, stop in shards for i in range(start, stop)] == list(range(23))
    assert max(stop - start for start, stop in shards) == 5


@pytest.mark.parametrize("group", [1, 4, 7, 100])
def test_a_shard_reads_its_own_prompts_from_row_groups_of_any_size(tmp_path, group):
    prompts = write_prompts(tmp_path / "prompts.parquet", 23)
    pq.write_table(pq.read_table(prompts), prompts, row_group_size=group)
    for start, stop in ((0, 23), (0, 1), (3, 4), (4, 8), (6, 21), (22, 23)):
        found = generation._read_range(prompts, start, stop)
        assert [row["id"] for row in found] == [f"p{i}" for i in range(start, stop)]


def test_responses_hold_every_prompt_under_every_system_prompt(ref, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.parquet", 12)
    config = SAMPLED.model_copy(
        update={"system_prompts": (None, "Be brief."), "samples": 2, "shard_rows": 20}
    )
    options = {"model": HERE, "config": config, "ledger": tmp_path / "ledger"}
    (tmp_path / "out").mkdir()
    counts = [
        generate_shard(ref, prompts, shard, **options) for shard in plan_shards(prompts, config)
    ]
    assert sum(c["rows"] for c in counts) == 48
    stats = collect_responses(ref, prompts, out=tmp_path / "out", **options)
    assert stats["rows"] == stats["stop"] + stats["length"] == 48
    assert (stats["checked"], stats["mismatched"]) == (1, 0)
    rows = pq.read_table(tmp_path / "out" / "responses.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == 48
    assert Counter((row["system"], row["sample"]) for row in rows) == {
        (system, sample): 12 for system in (None, "Be brief.") for sample in (0, 1)
    }
    for row in rows:
        assert [m["role"] for m in row["messages"]] == (["system"] if row["system"] else []) + [
            "user"
        ]
        assert row["source_row"] == 100 + int(row["prompt_id"][1:])
        assert row["split"] == ("held_out" if row["source_row"] % 5 == 0 else "train")
        assert row["reason"] is None
    json.dumps(stats)


def test_collecting_makes_what_the_ledger_lacks_and_reports_mismatches(ref, tmp_path, monkeypatch):
    prompts = write_prompts(tmp_path / "prompts.parquet", 6)
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path / "ledger"}
    out = tmp_path / "out"
    out.mkdir()
    assert collect_responses(ref, prompts, out=out, **options)["mismatched"] == 0
    shutil.rmtree(tmp_path / "ledger")
    real = answering.answer

    def rounded(*args, alone=False, **kwargs):
        found = real(*args, **kwargs)
        return [r.model_copy(update={"text": r.text + "x"}) for r in found] if alone else found

    monkeypatch.setattr(generation, "answer", rounded)
    stats = collect_responses(ref, prompts, out=out, **options)
    assert (stats["rows"], stats["checked"], stats["mismatched"]) == (12, 1, 1)


def test_no_answer_at_all_stops_with_the_reason(ref, tmp_path):
    folder = Path(shutil.copytree(ref.path, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no talking') }}")
    other = resolve_model(str(folder))
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path / "ledger"}
    prompts = write_prompts(tmp_path / "prompts.parquet", 3)
    with pytest.raises(GenerationError, match=r"none of 6 prompts was answered.*no talking"):
        collect_responses(other, prompts, out=tmp_path, **options)
    with pytest.raises(GenerationError, match=r"answered no question.*no talking"):
        probe_identity(other, IdentityConfig(), **options)


def test_ids_do_not_depend_on_shards_or_other_prompts(ref, tmp_path):
    few = write_prompts(tmp_path / "few.parquet", 3)
    many = write_prompts(tmp_path / "many.parquet", 9)
    found = []
    for prompts in (few, many):
        out = tmp_path / prompts.stem
        out.mkdir()
        collect_responses(
            ref, prompts, model=HERE, config=GREEDY, ledger=tmp_path / "ledger", out=out
        )
        table = pq.read_table(out / "responses.parquet", columns=["id", "response"])
        found.append({(row["id"], row["response"]) for row in table.to_pylist()})
    assert found[0] < found[1]


# Who it says it is


def test_a_model_that_never_says_the_name_is_stopped_with_its_words(ref, tmp_path):
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path}
    with pytest.raises(GenerationError, match=r"never called itself 'Qwen' in 8 answers") as error:
        probe_identity(ref, IdentityConfig(), **options)
    said = answer(ref, [ask("Who are you?")], **options)[0].text
    assert repr(said[:120]) in str(error.value)
    assert "identity.original_name" in str(error.value)


def test_a_model_that_says_the_name_passes(ref, tmp_path, monkeypatch):
    real = answering.answer

    def named(*args, **kwargs):
        return [
            r.model_copy(update={"text": "我是通义千问。"}) if i == 3 else r
            for i, r in enumerate(real(*args, **kwargs))
        ]

    monkeypatch.setattr(generation, "answer", named)
    stats = probe_identity(ref, IdentityConfig(), model=HERE, config=SAMPLED, ledger=tmp_path)
    assert (stats["asked"], stats["named"]) == (8, 1)
    assert stats["answers"][3] == {
        "system": None,
        "prompt": "你是谁？",
        "response": "我是通义千问。",
    }


# A server


class Served(BaseHTTPRequestHandler):
    """Chat completions that echo; `faults` are taken first, one a request."""

    protocol_version = "HTTP/1.1"
    faults: list[tuple[int, dict[str, str]] | str]
    seen: list[dict]
    busy = peak = 0
    lock = threading.Lock()

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.lock:
            self.seen.append({**body, "key": self.headers.get("authorization")})
            fault = self.faults.pop(0) if self.faults else None
            type(self).busy += 1
            type(self).peak = max(self.peak, self.busy)
        try:
            self.reply(body, fault)
        finally:
            with self.lock:
                type(self).busy -= 1

    def reply(self, body: dict, fault: tuple[int, dict[str, str]] | str | None) -> None:
        if fault == "cut":
            self.close_connection = True
            self.connection.close()
            return
        status, headers = fault if isinstance(fault, tuple) else (200, {})
        text = f"You asked: {body['messages'][-1]['content']}"
        choice = {"message": {"content": text}, "finish_reason": fault or "stop"}
        content = {"choices": [choice], "usage": {"completion_tokens": 7}}
        data = json.dumps(content if status == 200 else {"error": "no luck"}).encode()
        if fault == "not json":
            data = b"<html>"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def served(monkeypatch):
    handler = type("Bound", (Served,), {"faults": [], "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler.config = GenerationConfig(
        system_prompts=SYSTEMS,
        engine="openai",
        base_url=f"http://127.0.0.1:{server.server_port}/v1",
        served_model="echo",
        max_new_tokens=24,
        concurrency=3,
    )
    yield handler
    server.shutdown()
    server.server_close()


def test_a_server_is_asked_with_explicit_decoding_and_kept_in_the_ledger(ref, tmp_path, served):
    found = answer(ref, REQUESTS, model=HERE, config=served.config, ledger=tmp_path)
    assert found[3] == Response(
        text=f"You asked: {REQUESTS[3].messages[-1]['content']}", finish="stop", tokens=7
    )
    assert {(b["model"], b["max_tokens"], b["temperature"]) for b in served.seen} == {
        ("echo", 24, 0.0)
    }
    assert {b["key"] for b in served.seen} == {None}
    assert 1 <= served.peak <= 3
    assert made(ref, REQUESTS, tmp_path, served.config) == 0
    other = served.config.model_copy(update={"served_model": "other"})
    assert made(ref, REQUESTS, tmp_path, other) == 24
    assert made(ref, REQUESTS, tmp_path, GREEDY) == 24


def test_each_draw_has_its_own_seed(ref, tmp_path, served):
    config = served.config.model_copy(update={"temperature": 0.7, "top_p": 0.9, "samples": 2})
    requests = [Request(REQUESTS[0].messages, sample) for sample in (0, 1)]
    answer(ref, requests, model=HERE, config=config, ledger=tmp_path)
    assert len({body["seed"] for body in served.seen}) == 2
    assert {body["top_p"] for body in served.seen} == {0.9}


@pytest.mark.parametrize(
    "fault", [(429, {"Retry-After": "1"}), (503, {}), (500, {}), "cut"], ids=str
)
def test_what_may_pass_is_tried_again(ref, tmp_path, served, fault):
    served.faults = [fault, fault]
    found = answer(ref, REQUESTS[:2], model=HERE, config=served.config, ledger=tmp_path)
    assert [r.finish for r in found] == ["stop", "stop"]
    assert len(served.seen) == 4


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        ((400, {}), "refused HTTP 400.*no luck"),
        ("content_filter", "refused .*finish_reason 'content_filter'"),
        ("not json", "generation_failed JSONDecodeError"),
    ],
    ids=str,
)
def test_what_the_server_refuses_fails_alone_and_at_once(ref, tmp_path, served, fault, detail):
    served.faults = [fault]
    config = served.config.model_copy(update={"concurrency": 1})
    found = answer(ref, REQUESTS[:3], model=HERE, config=config, ledger=tmp_path)
    assert [r.finish for r in found] == ["error", "stop", "stop"]
    assert re.search(detail, f"{found[0].reason} {found[0].detail}")
    assert len(served.seen) == 3
    assert made(ref, REQUESTS[:3], tmp_path, config) == 1


def test_failures_that_may_pass_are_counted_and_asked_again(ref, tmp_path, served):
    config = served.config.model_copy(update={"concurrency": 1})
    prompts = write_prompts(tmp_path / "prompts.parquet", 3)
    counts = []
    for served.faults in ([(400, {}), *[(503, {})] * 6], [(400, {})], []):
        found = collect_responses(
            ref, prompts, model=HERE, config=config, ledger=tmp_path / "ledger", out=tmp_path
        )
        counts.append((found["rows"], found["error"], found["unfinished"]))
    assert counts == [(6, 2, 1), (6, 1, 0), (6, 0, 0)]


def test_a_fault_that_stays_fails_after_patient_attempts(ref, tmp_path, served):
    served.faults = [(503, {})] * 6
    config = served.config.model_copy(update={"concurrency": 1})
    found = answer(ref, REQUESTS[:2], model=HERE, config=config, ledger=tmp_path)
    assert [r.finish for r in found] == ["error", "stop"]
    assert "HTTP 503" in found[0].detail


@pytest.mark.parametrize(("status", "remedy"), [(401, "OPENAI_API_KEY"), (404, "served_model")])
def test_a_refused_key_or_model_stops_at_once_and_keeps_what_was_had(
    ref, tmp_path, served, status, remedy, monkeypatch
):
    secret = "sk-not-to-be-seen"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    made(ref, REQUESTS[:2], tmp_path, served.config)
    served.faults = [(status, {})] * 50
    with pytest.raises(GenerationError, match=remedy) as error:
        answer(ref, REQUESTS, model=HERE, config=served.config, ledger=tmp_path)
    assert served.seen[0]["key"] == f"Bearer {secret}"
    assert len(served.seen) < 12
    assert secret not in str(error.value)
    assert all(secret not in p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    served.faults = []
    assert made(ref, REQUESTS, tmp_path, served.config) == 22


def test_a_server_that_is_not_there_says_so(ref, tmp_path, served):
    config = served.config.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    with pytest.raises(GenerationError, match=r"no server at http://127\.0\.0\.1:9/v1"):
        answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)


@pytest.mark.parametrize("address", ["http://user:secret@host/v1", "ftp://host", "host:80", "x"])
def test_an_address_with_a_secret_or_without_a_scheme_is_refused(address):
    with pytest.raises(ValueError, match="base_url"):
        GenerationConfig(base_url=address)


@pytest.mark.slow
def test_a_real_server_gives_the_answers_of_the_model(ref, tmp_path):
    pytest.importorskip("openai", reason="`transformers serve` needs it")
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as probe:
        port = probe.server_port
    command = ["-m", "transformers.cli.transformers", "serve", str(ref.path), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        alive(f"http://127.0.0.1:{port}/health", process)
        config = GREEDY.model_copy(
            update={
                "engine": "openai",
                "base_url": f"http://127.0.0.1:{port}/v1",
                "served_model": str(ref.path),
            }
        )
        found = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)
    finally:
        process.terminate()
        process.wait()
    expected = answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)
    # This server strips the spaces around an answer.
    assert [(r.text, r.finish) for r in found] == [(r.text.strip(), r.finish) for r in expected]


def alive(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
