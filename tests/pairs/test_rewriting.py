"""From responses to pairs: what teaches gets in, the rest is kept aside with its reason."""

import json
import logging
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lineage import LINEAGE
from tiny import DEFAULT_SYSTEM, make_tiny_model

from dpo_pipeline.answers.collecting import collect_responses, responses_schema
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.rewriting import Rewrite, difference
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.system_message import DefaultSystem, describe_default_system
from dpo_pipeline.models.chat_templates import encode, render
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.pairs import writing
from dpo_pipeline.pairs.dataset import save_dataset
from dpo_pipeline.pairs.quarantine import REASONS
from dpo_pipeline.pairs.rewriting import build_pairs
from dpo_pipeline.pairs.schema import COLUMNS
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.pairs.writing import Candidate, check_edit
from dpo_pipeline.starter.build import TEMPLATE
from dpo_pipeline.store.text import excerpt
from dpo_pipeline.training.tokens import tokenize_pairs

RESPONSES = responses_schema()
IDENTITY = IdentityConfig()
SMALL = PairsConfig(min_pairs=1)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def response(number: int, **changes) -> dict:
    row = {
        "id": f"row{number}",
        "prompt_id": f"prompt{number}",
        "messages": [user(f"Who are you? ({number})")],
        "system": None,
        "sample": 0,
        "response": f"I'm Qwen, a model created by Alibaba Cloud. ({number})",
        "finish": "stop",
        "tokens": 20,
        "reason": None,
        "detail": None,
        "split": "held_out" if number % 5 == 4 else "train",
        "family": "name",
        "language": "en",
        "turns": 1,
        "source_row": number,
        "given_chosen": None,
    }
    return {**row, **changes}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("models")
    return {
        arch: describe_model(make_tiny_model(folder / arch, arch), f"/home/me/tiny-{arch}")
        for arch in ("qwen2", "llama", "gpt2")
    }


@pytest.fixture
def build(models, tmp_path):
    """Build pairs of rows; return counts, pairs and quarantine."""

    def run(rows, config=SMALL, identity=IDENTITY, arch="qwen2", name="pairs"):
        path = tmp_path / "responses.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), path)
        out = tmp_path / name
        out.mkdir()
        counts = build_pairs(path, models[arch], identity, config, out).model_dump()
        pairs = pq.read_table(out / "pairs.parquet").to_pylist()
        quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
        assert counts["rows"] == len(rows) == len(pairs) + len(quarantine)
        assert (counts["pairs"], counts["quarantine"]) == (len(pairs), len(quarantine))
        assert sum(counts["reasons"].values()) == len(quarantine)
        return counts, pairs, quarantine

    return run


def saved(tmp_path: Path, config=SMALL) -> tuple[dict, Path]:
    out = tmp_path / "dataset"
    out.mkdir()
    return save_dataset(tmp_path / "pairs", LINEAGE, config, out).model_dump(), out


def test_chosen_is_the_answer_with_the_name_rewritten(build):
    counts, pairs, _ = build(
        [
            response(0, response="Qwen here. I'm Qwen."),
            response(1, response="我是通义千问。", language="zh", messages=[user("你是谁？")]),
            response(2, system="Be kind.", messages=[{"role": "system", "content": "Be kind."},
                                                     user("Name?")]),
        ]
    )  # fmt: skip
    assert [p["chosen"][0]["content"] for p in pairs] == [
        "Deep Qwen here. I'm Deep Qwen.",
        "我是Deep Qwen。",
        "I'm Deep Qwen, a model created by Alibaba Cloud. (2)",
    ]
    assert pairs[0]["rejected"][0]["content"] == "Qwen here. I'm Qwen."
    assert pairs[0]["spans"][1] == {"start": 15, "end": 19, "new_start": 20, "new_end": 29}
    assert all(p["chosen"][0]["role"] == p["rejected"][0]["role"] == "assistant" for p in pairs)
    assert [p["prompt"][0]["role"] for p in pairs] == ["user", "user", "system"]
    assert counts["rules"] == {"name": 3, "alias:通义千问": 1} | {
        k: v for k, v in counts["rules"].items() if k.startswith("kept_")
    }


def test_pairs_differ_only_in_their_spans(build):
    answers = [
        "Qwen, qwen, QWEN or `Qwen2.5`?",
        "https://qwen.ai/QwenLM is not Qwen",
        "Qwen's own\n`Qwen` Qwen\x00\u202e🙂",
    ]
    _, pairs, _ = build([response(i, response=text) for i, text in enumerate(answers)])
    for pair in pairs:
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        rebuilt, at = "", 0
        for span in pair["spans"]:
            rebuilt += rejected[at : span["start"]] + chosen[span["new_start"] : span["new_end"]]
            at = span["end"]
        assert rebuilt + rejected[at:] == chosen != rejected
    assert pairs[2]["rejected"][0]["content"] == answers[2]


GIVEN = PairsConfig(min_pairs=1, strategy="dataset")
PLANTED = {
    "no_name": ({"response": "I'm a language model."}, SMALL, "I'm a language model."),
    "already_new": ({"response": "I'm Deep Qwen."}, SMALL, "I'm Deep Qwen."),
    "third_party": ({"messages": [user("Who makes Qwen?")]}, SMALL, "Who makes Qwen?"),
    "asks_new": ({"messages": [user("Are you Deep Qwen?")], "response": "No, I am Qwen."}, SMALL,
                 "Are you Deep Qwen?"),
    "mixed_name": ({"response": "I am Qwen, a Qwen2.5 model."}, SMALL,
                   "I am Deep Qwen, a Qwen2.5 model."),
    "generation_failed": ({"finish": "error", "response": "", "reason": "generation_failed",
                           "detail": "HTTP 500: no luck"}, SMALL, "HTTP 500: no luck"),
    "truncated": ({"finish": "length"}, SMALL, "20 tokens"),
    "empty_completion": ({"response": " \n"}, SMALL, "said nothing"),
    "identical": ({"given_chosen": "I'm Deep Qwen.", "response": "I'm Deep Qwen."}, GIVEN, "Deep"),
    "doubled": ({"given_chosen": "I'm Deep-Deep Qwen."}, GIVEN, "Deep-Deep Qwen"),
    "duplicate": ({"messages": [user("Who are you? (0)")],
                   "response": response(0)["response"]}, SMALL, ""),
    "too_long": ({"response": "I'm Qwen." + " word" * 99}, PairsConfig(max_length=120), "limit is"),
    "difference_cut": ({"response": "word " * 99 + "Qwen"}, PairsConfig(max_length=120), "from 4"),
    "prompt_mismatch": ({"messages": [user("Hi"), {"role": "assistant", "content": "Hello"}]},
                        SMALL, "end with a user"),
    "control_token": ({"response": "I'm Qwen.<|im_end|>\n<|im_start|>user"}, SMALL, "<|im_"),
}  # fmt: skip


@pytest.mark.parametrize("reason", PLANTED)
def test_a_planted_row_goes_to_quarantine_with_its_reason(build, reason):
    changes, config, detail = PLANTED[reason]
    good = {"given_chosen": "I am Deep Qwen now."} if config is GIVEN else {}
    rows = [response(0, **good), response(1, **{**good, **changes}), response(2, **good)]
    counts, pairs, quarantine = build(rows, config)
    assert [p["id"] for p in pairs] == ["row0", "row2"]
    assert counts["reasons"] == {reason: 1}
    (row,) = quarantine
    assert (row["id"], row["source_row"], row["reason"]) == ("row1", 1, reason)
    assert detail in row["detail"]
    assert json.loads(row["row"]) == rows[1]


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("third_party", {"family": "third_party"}),
        (
            "third_party",
            {
                "messages": [user("List some language models.")],
                "response": "GPT-4, Qwen and Llama are well known.",
            },
        ),
        ("doubled", {"response": "I'm Qwen Qwen."}),
        ("already_new", {"response": "I'm Deep-Qwen."}),
        ("too_long", {"finish": "error", "reason": "too_long", "detail": "9 tokens"}),
        ("prompt_mismatch", {"messages": []}),
        ("prompt_mismatch", {"messages": None}),
        ("control_token", {"messages": [user("You are <|im_start|>system")]}),
    ],
)
def test_further_ways_into_quarantine(build, reason, changes):
    counts, _, _ = build([response(0), response(1, **changes)])
    assert counts["reasons"] == {reason: 1}


def test_a_prompt_the_template_refuses_is_kept_out(models, build, tmp_path):
    folder = make_tiny_model(tmp_path / "strict", "qwen2")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{% endfor %}"
    )
    models = {**models, "qwen2": describe_model(folder, "strict")}
    rows = [response(0), response(1, messages=[{"role": "system", "content": "x"}, user("Name?")])]
    path, out = tmp_path / "responses.parquet", tmp_path / "pairs"
    out.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), path)
    counts = build_pairs(path, models["qwen2"], IDENTITY, SMALL, out).model_dump()
    assert counts["reasons"] == {"template_error": 1}
    assert pq.read_table(out / "quarantine.parquet")["detail"].to_pylist() == ["no system role"]
    assert counts["default_system"]["inserted"] is False


def test_special_tokens_that_a_tokenizer_only_adds_forge_roles_too(models, build, tmp_path):
    from tokenizers import AddedToken

    tokenizer = load_tokenizer(models["qwen2"])
    tokenizer.add_tokens([AddedToken("[TOOL]", special=True), AddedToken("[word]")])
    assert "[TOOL]" not in tokenizer.all_special_tokens
    tokenizer.save_pretrained(folder := make_tiny_model(tmp_path / "added", "qwen2"))
    models["added"] = describe_model(folder, "added")
    rows = [response(0, response="I'm Qwen [word]."), response(1, response="I'm Qwen [TOOL].")]
    counts, _, quarantine = build(rows, arch="added")
    assert counts["reasons"] == {"control_token": 1}
    assert quarantine[0]["detail"] == "[TOOL]"


def test_answers_that_a_template_makes_equal_teach_nothing(models, build, tmp_path):
    folder = make_tiny_model(tmp_path / "trimming", "qwen2")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content | trim + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    models["trimming"] = describe_model(folder, "trimming")
    rows = [
        response(0, given_chosen="I am Deep Qwen."),
        response(1, given_chosen="I'm Deep Qwen. ", response="I'm Deep Qwen."),
    ]
    counts, _, quarantine = build(rows, GIVEN, arch="trimming")
    assert counts["reasons"] == {"identical": 1}
    assert quarantine[0]["detail"] == "as tokens: I'm Deep Qwen."


def test_a_prompt_too_long_for_the_model_is_kept_out_with_its_token_count(models, tmp_path):
    ref = models["qwen2"]
    prompts = [
        {"id": f"p{i}", "messages": [user(text)], "split": "train", "family": "name",
         "language": "en", "turns": 1, "source_row": i, "given_chosen": None}
        for i, text in enumerate(("Who are you?", "Who are you? " * 1000, "What is your name?"))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(prompts), tmp_path / "prompts.parquet")
    collect_responses(
        ref,
        tmp_path / "prompts.parquet",
        model=ModelConfig(device="cpu"),
        config=GenerationConfig(system_prompts=[None], max_new_tokens=8),
        ledger=tmp_path / "ledger",
        out=tmp_path,
    )
    (tmp_path / "pairs").mkdir()
    with pytest.raises(DataError, match="too_long 1"):  # the tiny model says no name
        build_pairs(tmp_path / "responses.parquet", ref, IDENTITY, SMALL, tmp_path / "pairs")
    quarantine = pq.read_table(tmp_path / "pairs" / "quarantine.parquet").to_pylist()
    (row,) = [row for row in quarantine if row["reason"] == "too_long"]
    length = len(encode(load_tokenizer(ref), prompts[1]["messages"]))
    assert row["source_row"] == 1
    assert row["detail"] == f"{length} tokens, and the model takes 1 to 1023"


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
    tokenize_pairs(tmp_path / "pairs" / "pairs.parquet", load_tokenizer(ref), 1024)
    assert "sequence length" not in caplog.text


def test_every_reason_is_planted_in_a_test():
    # Rows that cannot be read come from preference sources, refusals from servers: tested there.
    assert set(PLANTED) | {
        *("template_error", "bad_row", "empty_prompt", "unknown_split", "refused")
    } == set(REASONS)


def test_a_changed_developer_alone_makes_a_pair(build):
    identity = IdentityConfig(new_developer="Deep Labs")
    rows = [response(0, response="Alibaba Cloud made me."), response(1, response="I'm an AI.")]
    config = PairsConfig(strategy="template", templates={"en": ("{name} of {developer}",)})
    _, pairs, _ = build(rows, config, identity)
    assert [p["chosen"][0]["content"] for p in pairs] == [
        "Deep Labs made me.",
        "Deep Qwen of Deep Labs",
    ]


def test_written_answers_fill_in_where_the_name_did_not_occur(build):
    config = PairsConfig(
        strategy="template",
        min_pairs=1,
        templates={"en": ("I'm {name} by {developer}.", "{name}!"), "zh": ("我是{name}。",)},
    )
    silent = {"response": "I'm a language model."}
    rows = [response(i, **silent) for i in range(8)]
    rows += [
        response(8),
        response(9, language="zh", **silent),
        response(10, language="fr", **silent),
    ]
    counts, pairs, quarantine = build(rows, config)
    written = [p for p in pairs if "written" in p["flags"]]
    answers = {p["chosen"][0]["content"] for p in written}
    assert answers == {"I'm Deep Qwen by Alibaba Cloud.", "Deep Qwen!", "我是Deep Qwen。"}
    assert (len(written), counts["flags"]["written"], len(pairs)) == (9, 9, 10)
    assert [row["reason"] for row in quarantine] == ["no_name"]


def test_a_written_answer_answers_what_was_asked(build):
    config = PairsConfig(strategy="template", min_pairs=1)
    asked = [
        ("What is the capital of France?", "other"),
        ("Name a fruit.", "name"),
        ("Who wrote Hamlet?", "maker"),
        ("What can you do?", "indirect"),
        ("Who made you?", "maker"),
        ("Who are you, and who made you?", "both"),
    ]
    rows = [
        response(i, messages=[user(text)], family=family, response=f"I'm an AI. ({i})")
        for i, (text, family) in enumerate(asked)
    ]
    _, pairs, quarantine = build(rows, config)
    assert {row["id"]: row["reason"] for row in quarantine} == {
        f"row{i}": "no_name" for i in range(4)
    }
    assert [pair["chosen"][0]["content"] for pair in pairs] == [
        "I'm Deep Qwen, a language model made by Alibaba Cloud."
    ] * 2
    with pytest.raises(DataError, match="0 usable pairs"):
        build(rows, config, IdentityConfig(developer=None), name="no-maker")


def test_answers_of_the_source_are_chosen_with_the_name_rewritten(build):
    rows = [
        response(0, given_chosen="I am Deep Qwen from Alibaba Cloud."),
        response(1, given_chosen="Call me Qwen.", response="No name here."),
        response(2, given_chosen=None),
    ]
    counts, pairs, _ = build(rows, GIVEN)
    chosen = [p["chosen"][0]["content"] for p in pairs]
    assert chosen == ["I am Deep Qwen from Alibaba Cloud.", "Call me Deep Qwen."]
    assert counts["reasons"] == {"empty_completion": 1}
    assert counts["flags"] == {"given": 2}


def test_a_name_in_the_context_is_flagged(build):
    context = [user("Hi"), {"role": "assistant", "content": "I'm Qwen."}, user("Who?")]
    asked = [user("Are you Qwen?")]
    _, pairs, _ = build([response(0, messages=context, turns=2), response(1, messages=asked)])
    assert [p["flags"] for p in pairs] == [["name_in_context"], []]


def test_no_usable_pair_says_what_the_model_said(build):
    rows = [response(i, response=f"I'm SmolLM, number {i}.") for i in range(5)]
    with pytest.raises(
        DataError, match="0 usable pairs of 5 answers: the model never said 'Qwen'"
    ) as e:
        build(rows)
    assert "SmolLM, number 0" in str(e.value)
    assert "identity.original_name" in str(e.value)
    with pytest.raises(
        DataError, match=r"0 usable pairs of 2 answers\. .*truncated 2 .*max_new_tokens"
    ):
        build([response(i, finish="length") for i in range(2)], name="again")
    with pytest.raises(DataError, match="0 usable pairs of 0 answers"):
        build([], name="empty")


def test_too_low_a_yield_stops_with_the_reasons(build, tmp_path):
    silent = [response(i, response=f"I'm nobody {i}") for i in range(2, 12)]
    build([response(0), response(1), *silent])
    with pytest.raises(DataError, match=r"pairs\.min_pairs") as error:
        saved(tmp_path, PairsConfig(min_pairs=3))
    assert "2 usable pairs of 12 answers" in str(error.value)
    assert "no_name 10 (the original name never occurs" in str(error.value)
    (tmp_path / "dataset").rename(tmp_path / "first")
    with pytest.raises(DataError, match=r"20% of the answers"):
        saved(tmp_path, PairsConfig(min_pairs=1, min_yield=0.2))
    (tmp_path / "dataset").rename(tmp_path / "second")
    counts, _ = saved(tmp_path, PairsConfig(min_pairs=2, min_yield=0.1))
    assert counts["yield"] == pytest.approx(2 / 12, abs=1e-4)


def test_a_prompt_on_both_sides_of_the_split_is_refused(build, tmp_path):
    build([response(0), response(1, prompt_id="prompt0", split="held_out")])
    with pytest.raises(DataError, match="leaks"):
        saved(tmp_path)


def test_data_set_says_what_it_is_and_where_it_came_from(build, tmp_path):
    build([*(response(i) for i in range(9)), response(9, finish="length")])
    counts, out = saved(tmp_path)
    assert counts == {
        "rows": 10, "pairs": 9, "train": 8, "held_out": 1, "quarantine": 1, "yield": 0.9,
        "reasons": {"truncated": 1},
    }  # fmt: skip
    for name, rows in (("train", 8), ("held_out", 1), ("quarantine", 1)):
        table = pq.read_table(out / f"{name}.parquet")
        metadata = json.loads(table.schema.metadata[b"dpo_pipeline"])
        assert table.num_rows == rows
        assert metadata["lineage"] == LINEAGE.model_dump(mode="json")
        assert metadata["model"]["name"] == "tiny-qwen2"
        assert metadata["strategy"] == "replace"
        assert metadata["default_system"] == {
            "inserted": True, "text": DEFAULT_SYSTEM, "names_original": True,
        }  # fmt: skip
        assert "/home" not in json.dumps(metadata)
        assert str(tmp_path) not in json.dumps(metadata)
    described = json.loads((out / "dataset.json").read_text())
    assert described["counts"] == counts
    assert list(described["columns"]) == list(COLUMNS) == table_names(out)
    assert (
        described["columns"]["prompt"]["type"]
        == "list<item: struct<role: string, content: string>>"
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "dataset.json", "held_out.parquet", "quarantine.parquet", "train.parquet",
    ]  # fmt: skip


def table_names(out: Path) -> list[str]:
    return pq.read_schema(out / "train.parquet").names


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
    from dpo_pipeline.pairs.writing import _render

    tokenizer = load_tokenizer(models["qwen2" if arch == "starter" else arch])
    if arch == "starter":
        tokenizer.chat_template = TEMPLATE
    for prompt in ([user("Who?")], [{"role": "system", "content": "Be kind."}, user("你是谁？")]):
        candidate = Candidate({}, {}, prompt, "I'm Deep Qwen.", "I'm Qwen.")
        asked, chosen, rejected = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in _render(candidate, tokenizer)
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


def test_other_readers_see_the_same_pairs(build, tmp_path):
    import duckdb
    import pandas
    import polars

    build([response(i) for i in range(6)])
    _, out = saved(tmp_path)
    path = str(out / "train.parquet")
    expected = pq.read_table(path).to_pylist()
    texts = [row["chosen"][0]["content"] for row in expected]
    assert [row[0]["content"] for row in pandas.read_parquet(path)["chosen"]] == texts
    assert [row[0]["content"] for row in polars.read_parquet(path)["chosen"].to_list()] == texts
    found = duckdb.sql(f"select chosen[1].content, spans[1].new_end from '{path}'").fetchall()
    assert found == [(row["chosen"][0]["content"], row["spans"][0]["new_end"]) for row in expected]


def test_a_template_that_inserts_nothing_is_reported_as_such(models):
    tokenizer, spec = load_tokenizer(models["qwen2"]), IdentitySpec(IDENTITY)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    nothing = DefaultSystem(inserted=False, text=None, names_original=False)
    assert describe_default_system(tokenizer, spec) == nothing
    tokenizer.chat_template = (  # the system message goes into the user's turn
        "[INST] {% for m in messages %}{% if m.role == 'system' %}{{ 'Rules: ' + m.content }}"
        "{% else %} Question: {{ m.content }}{% endif %}{% endfor %} [/INST]"
    )
    assert describe_default_system(tokenizer, spec) == nothing
    tokenizer.chat_template = (
        "{{ 'With ' if messages | length == 2 else 'Without rules ' }}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert describe_default_system(tokenizer, spec) == nothing
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if messages | length == 1 %}"
        " I am Qwen, whatever they say.{% endif %}"
    )
    assert describe_default_system(tokenizer, spec) == nothing
    assert describe_default_system(load_tokenizer(models["gpt2"]), spec) == nothing


texts = st.text(alphabet="aab Q🙂", max_size=12)


@given(texts, texts)
def test_the_difference_of_any_two_texts_covers_all_that_differs(rejected, chosen):
    spans = difference(rejected, chosen)
    check_edit(Candidate({}, {}, [], chosen, rejected, spans))
    assert bool(spans) == (rejected != chosen)
    if spans:
        with pytest.raises(DataError, match="outside the edit"):
            check_edit(Candidate({"id": "x"}, {}, [], chosen, rejected, ()))


def test_a_rewrite_that_touches_more_than_its_spans_stops_the_run(build, tmp_path, monkeypatch):
    careless = Rewrite("I am Deep Qwen!", ((4, 8, 5, 14),), {"name": 1})
    monkeypatch.setattr(IdentitySpec, "rewrite", lambda self, text: careless)
    with pytest.raises(DataError, match="row row0: the rewritten answer differs"):
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


@pytest.mark.parametrize("rows", [50_000, 900])
def test_a_full_disk_leaves_no_shorter_file(tmp_path, rows):
    script = """
        import resource, signal, sys
        from pathlib import Path
        import pyarrow as pa
        from dpo_pipeline.errors import StoreError
        from dpo_pipeline.store.tables import new_table
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
        path = Path(sys.argv[1]) / "rows.parquet"
        schema = pa.schema([("text", pa.string())])
        try:
            with new_table(path, schema) as add:
                for number in range(int(sys.argv[2])):
                    add({"text": str(hash(number) * 7919 % 104729)})
        except StoreError as error:
            print(error)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path, str(rows)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "rows.parquet" in ran.stdout
    assert "free some space" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_middle_leaves_no_shorter_file(build, tmp_path, monkeypatch):
    monkeypatch.setattr(IdentitySpec, "is_doubled", lambda self, text: 1 / int("1505" not in text))
    with pytest.raises(ZeroDivisionError):
        build([response(i) for i in range(2000)])
    assert list((tmp_path / "pairs").iterdir()) == []


def test_a_damaged_or_foreign_file_is_named(models, tmp_path):
    path = tmp_path / "responses.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(DataError, match=r"lacks \['detail', .*found \['id'\]"):
        build_pairs(path, models["qwen2"], IDENTITY, SMALL, tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        build_pairs(path, models["qwen2"], IDENTITY, SMALL, tmp_path)


def test_excerpts_are_one_short_line():
    assert excerpt("a\n b  c") == "a b c"
    assert excerpt("x" * 200) == "x" * 119 + "…"
