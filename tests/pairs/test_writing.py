"""Pairs are checked, measured as training sees them, and written whole."""

import json
import logging
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest
from answer_rows import response, saved, user
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny_model

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.rewriting import Rewrite, difference
from dpo_pipeline.models.chat_templates import encode, render, render_pair
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.pairs import writing
from dpo_pipeline.pairs.writing import Candidate, check_edit, said
from dpo_pipeline.starter.build import TEMPLATE
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import tokenize_pairs


def test_measuring_lengths_warns_of_none(models, build, tmp_path, caplog, monkeypatch):
    folder = make_tiny_model(tmp_path / "short", "qwen2")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 16
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ref = describe_model(folder, "short")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    load_tokenizer(ref)("Who are you? " * 9)
    assert "sequence length is longer" in caplog.text
    caplog.clear()
    monkeypatch.setitem(models, "qwen2", ref)
    build([response(i) for i in range(9)])
    encode(load_tokenizer(ref), [user("Who are you? " * 9)])
    tokenize_pairs(tmp_path / "pairs" / "pairs.parquet", load_tokenizer(ref), TrainConfig())
    assert "sequence length" not in caplog.text


def test_the_same_rows_make_the_same_bytes_in_row_groups(build, tmp_path):
    rows = [response(i, split="train") for i in range(2300)]
    build(rows)
    build(rows, name="again")
    files = [(tmp_path / name / "pairs.parquet") for name in ("pairs", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    groups = pq.ParquetFile(files[0]).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [1000, 1000, 300]


@pytest.mark.parametrize("arch", ["qwen2", "llama", "gpt2"])
def test_token_counts_are_those_of_the_trl_trainer(build, models, tmp_path, arch):
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    system = {"role": "system", "content": "You are a helpful assistant."}
    rows = [
        response(0),
        response(1, messages=[system, user("Who are you?")], system=system["content"]),
        response(
            2, messages=[user("Hi"), {"role": "assistant", "content": "Hello"}, user("Name?")]
        ),
        response(3, response="\n我是通义千问。"),
    ]
    _, pairs, _ = build(rows, arch=arch)
    saved(tmp_path)
    data = load_dataset(
        "parquet",
        data_files=str(tmp_path / "dataset" / "train.parquet"),
        cache_dir=str(tmp_path / "cache"),
        split="train",
    )
    tokenizer = load_tokenizer(models[arch])
    data = data.select_columns(["prompt", "chosen", "rejected"])
    if arch == "gpt2":  # TRL reads texts where there is no chat template
        data = data.map(
            lambda pair: {
                "prompt": render(tokenizer, pair["prompt"]),
                "chosen": pair["chosen"][0]["content"],
                "rejected": pair["rejected"][0]["content"],
            }
        )
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(models[arch].path),
        args=DPOConfig(output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to=[],
                       max_length=1024),
        train_dataset=data,
        processing_class=tokenizer,
    )  # fmt: skip
    seen = trainer.train_dataset
    assert len(seen) == len(pairs) == 4
    for name in ("prompt", "chosen", "rejected"):
        counted = [pair[f"{name}_tokens"] for pair in pairs]
        assert counted == [len(ids) for ids in seen[f"{name}_ids"]]
        assert min(counted) >= 4
        assert max(counted) > 12
    assert all(p["flags"] == [] for p in pairs)


@pytest.mark.parametrize("arch", ["qwen2", "llama", "gpt2", "starter"])
def test_a_rendered_prompt_starts_the_rendered_pair(models, arch):
    tokenizer = load_tokenizer(models["qwen2" if arch == "starter" else arch])
    if arch == "starter":
        tokenizer.chat_template = TEMPLATE
    for prompt in ([user("Who?")], [{"role": "system", "content": "Be kind."}, user("你是谁？")]):
        completions = (said("I'm Deep Qwen."), said("I'm Qwen."))
        asked, chosen, rejected = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in render_pair(tokenizer, prompt, completions)
        )
        assert len(asked) >= 8
        assert chosen[: len(asked)] == rejected[: len(asked)] == asked
        assert chosen != rejected


def test_a_prompt_that_merges_with_its_answer_is_flagged(models, build, tmp_path):
    folder = make_tiny_model(tmp_path / "merging", "qwen2")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assist{% endif %}"
    )
    models["merging"] = describe_model(folder, "merging")
    _, pairs, _ = build([response(0)], arch="merging")
    assert pairs[0]["flags"] == ["boundary"]


def test_a_start_token_is_counted_only_where_the_tokenizer_adds_it(models, build, tmp_path):
    from tokenizers.processors import TemplateProcessing

    for arch, extra in (("qwen2", 0), ("gpt2", 1)):
        folder = make_tiny_model(tmp_path / f"{arch}-model", arch)
        tokenizer = load_tokenizer(models[arch])
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
        tokenizer.save_pretrained(folder)
        models[f"{arch}-start"] = describe_model(folder, "start")
        (_, [pair], _), (_, [started], _) = (
            build([response(0)], arch=name, name=name) for name in (arch, f"{arch}-start")
        )
        assert started["prompt_tokens"] == pair["prompt_tokens"] + extra
        assert started["chosen_tokens"] == pair["chosen_tokens"]


texts = st.text(alphabet="aab Q🙂", max_size=12)


@given(texts, texts)
def test_the_difference_of_any_two_texts_covers_all_that_differs(rejected, chosen):
    spans = difference(rejected, chosen)
    check_edit(Candidate({}, {}, [], chosen, rejected, spans))
    assert bool(spans) == (rejected != chosen)
    if spans:
        with pytest.raises(DataError, match="outside the edit"):
            check_edit(Candidate({"source_row": 0}, {}, [], chosen, rejected, ()))


def test_a_rewrite_that_touches_more_than_its_spans_stops_the_run(build, tmp_path, monkeypatch):
    careless = Rewrite("I am Deep Qwen!", ((4, 8, 5, 14),), {"name": 1})
    monkeypatch.setattr(
        IdentitySpec, "rewrite", lambda self, text: careless if "Qwen," in text else Rewrite(text)
    )
    with pytest.raises(DataError, match="row 0: the rewritten answer differs"):
        build([response(0)])
    assert list((tmp_path / "pairs").iterdir()) == []


def test_a_lost_row_stops_the_run(build, monkeypatch):
    @contextmanager
    def losing(path, schema):
        with new_table(path, schema) as add:
            yield lambda row: None if row["id"] == "row3" else add(row)

    new_table = writing.new_table
    monkeypatch.setattr(writing, "new_table", losing)
    with pytest.raises(DataError, match="5 rows in, 4 pairs and 0 in quarantine"):
        build([response(i) for i in range(5)])


def test_a_failure_in_the_middle_leaves_no_shorter_file(build, tmp_path, monkeypatch):
    monkeypatch.setattr(IdentitySpec, "is_doubled", lambda self, text: 1 / int("1505" not in text))
    with pytest.raises(ZeroDivisionError):
        build([response(i) for i in range(2000)])
    assert list((tmp_path / "pairs").iterdir()) == []
