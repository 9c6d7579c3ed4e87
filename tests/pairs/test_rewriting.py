"""Answers become pairs: what teaches gets in."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answer_rows import GIVEN, IDENTITY, SMALL, response, user
from identities import qwen

from dpo_pipeline.errors import DataError
from dpo_pipeline.pairs.rewriting import build_pairs
from dpo_pipeline.pairs.settings import PairsConfig


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


def test_a_changed_developer_alone_makes_a_pair(build):
    identity = qwen(new_developer="Deep Labs")
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
        build(rows, config, qwen(developer=None), name="no-maker")


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


def test_a_damaged_or_foreign_file_is_named(models, tmp_path):
    path = tmp_path / "responses.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(DataError, match=r"lacks \['detail', .*found \['id'\]"):
        build_pairs(path, models["qwen2"], IDENTITY, SMALL, tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        build_pairs(path, models["qwen2"], IDENTITY, SMALL, tmp_path)
