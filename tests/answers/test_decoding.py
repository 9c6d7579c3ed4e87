"""Answers do not depend on how they are made; what cannot be asked fails alone."""

import json
import shutil
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from asking import GREEDY, HERE, REQUESTS, SAMPLED, ask, one_by_one
from tiny import make_tiny_model

from dpo_pipeline.answers import decoding
from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.decoding import Continuous, Row, choose, rows_join
from dpo_pipeline.answers.records import Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.models.chat_templates import encode
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import resolve_model
from dpo_pipeline.models.settings import ModelConfig


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
    batched = answer(ref, REQUESTS, model=half, config=GREEDY, ledger=tmp_path)
    alone = answer(ref, REQUESTS, model=half, config=GREEDY, ledger=tmp_path, alone=True)
    # Rounding may tip a near tie; most answers are the same to the letter.
    assert sum(a == b for a, b in zip(batched, alone, strict=True)) > len(REQUESTS) * 0.6


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
    expected = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path / "a")
    fits, sizes, step = 5, [], Continuous._next

    def scarce(batch, rows, ids, cache):
        sizes.append(len(rows))
        if len(rows) > fits and max(row.length for row in rows) > 60:
            raise torch.OutOfMemoryError("no more")
        return step(batch, rows, ids, cache)

    monkeypatch.setattr(Continuous, "_next", scarce)
    found = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path / "b")
    assert found == expected
    assert max(sizes) > fits
    assert min(sizes) <= fits


def test_out_of_memory_with_one_row_says_what_to_do(ref, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    monkeypatch.setattr(decoding, "rows_join", lambda *_: True)
    monkeypatch.setattr(Continuous, "_next", full)
    with pytest.raises(GenerationError, match=r"one prompt of \d+ tokens.*lower max_new_tokens"):
        answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)


SHAPE = {
    "vocab_size": 509, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 2,
    "pad_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
OTHERS = {  # what each has that shared batches must serve, or leave to the model's own generate
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
    "a state instead of a cache": ("mamba", {"state_size": 8}),
    "no cache": ("openai-gpt", GPT),
}


# Their rows are left to the model's own `generate()`.
APART = {"a layer without keys", "a state instead of a cache", "no cache"}


@pytest.mark.parametrize("case", OTHERS)
def test_other_architectures_answer_as_they_do_alone(tmp_path, case):
    from transformers import AutoConfig, AutoModelForCausalLM

    arch, special = OTHERS[case]
    folder = make_tiny_model(tmp_path / "model", "llama")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(arch, **{**SHAPE, **special}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder)
    prompts = [list(range(3, 3 + n)) for n in (9, 30)]
    rows = [Row("", prompt, ends=(), limit=4) for prompt in prompts]
    assert rows_join(model.eval(), rows) == (case not in APART)
    ref = resolve_model(str(folder))
    expected = one_by_one(ref, REQUESTS[:8], 24)
    found = answer(ref, REQUESTS[:8], model=HERE, config=GREEDY, ledger=tmp_path)
    assert [(r.text, r.tokens) for r in found] == expected
    assert len({text for text, _ in expected}) > 2


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
