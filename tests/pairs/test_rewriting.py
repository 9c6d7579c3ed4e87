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
        "Qwen, qwen, QWEN or `this`?",
        "https://a.ai/LM is not by *Qwen*",
        "Qwen's own\n`x` Qwen\x00\u202e🙂",
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


def test_an_answer_that_would_still_leak_is_not_chosen(build):
    leaks = ("I'm Qwen, see https://qwen.ai.", "I'm Qwen, `Qwen`.", "I'm Qwen, of the 千问 family.")
    rows = [response(i, response=text) for i, text in enumerate((*leaks, "I'm Qwen."))]
    _, pairs, refused = build(rows)
    assert [pair["chosen"][0]["content"] for pair in pairs] == ["I'm Deep Qwen."]
    assert [row["reason"] for row in refused] == ["mixed_name"] * 3


def told(row: dict, chosen: str | None, reason: str | None = None) -> dict:
    detail = reason and "as told"
    return {"prompt_id": row["prompt_id"], "chosen": chosen, "reason": reason, "detail": detail}


def under(system: str | None, text: str, number: int = 0, **changes) -> dict:
    """What the model says to one prompt under a system prompt."""
    place = {"id": f"row{number}-{system}", "system": system}
    return response(number, response=text, **place, **changes)


def by_way(pairs: list[dict]) -> list[tuple]:
    return [(p["way"], p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs]


def test_a_chosen_answer_comes_by_the_first_way_that_holds(build):
    given = {"given_chosen": "They call me Deep Qwen."}
    rows = [
        under(None, "I'm Qwen.", **given),
        under("", "I'm John.", **given),
        under(None, "I'm John.", 1, **given),
        under(None, "I'm John.", 2, **given),
        under(None, "I'm John.", 3),
    ]
    answers = [told(rows[2], "Deep Qwen it is."), told(rows[3], None, "claims_other")]
    counts, pairs, quarantine = build(rows, told=answers)
    assert by_way(pairs) == [
        ("replaced", "I'm Deep Qwen.", "I'm Qwen."),
        ("transferred", "I'm Deep Qwen.", "I'm John."),
        ("instructed", "Deep Qwen it is.", "I'm John."),
        ("filled", "They call me Deep Qwen.", "I'm John."),
    ]
    assert [row["reason"] for row in quarantine] == ["no_name"]
    none = {"replaced": 0, "transferred": 0, "instructed": 0, "filled": 0, "none": 0}
    assert counts["ways"]["system"] == {
        "": none | {"transferred": 1},
        "null": none | {"replaced": 1, "instructed": 1, "filled": 1, "none": 1},
    }


def test_ways_are_open_as_the_settings_say_in_their_order(build):
    row = response(0, response="I'm Qwen.", given_chosen="They call me Deep Qwen.")
    for ways in (("filled", "replaced"), ("replaced", "filled")):
        _, pairs, _ = build([row], PairsConfig(ways=ways), name=ways[0])
        assert pairs[0]["way"] == ways[0]
    with pytest.raises(DataError, match="no_name 1"):
        build([row], PairsConfig(ways=("instructed",)), name="none")


def test_a_changed_developer_alone_makes_a_pair(build):
    identity = qwen(new_developer="Deep Labs")
    rows = [
        response(0, response="Alibaba Cloud made me.", family="maker"),
        response(1, response="Alibaba Cloud made me."),  # asked for the name
    ]
    _, pairs, quarantine = build(rows, identity=identity)
    assert by_way(pairs) == [("replaced", "Deep Labs made me.", "Alibaba Cloud made me.")]
    assert [row["reason"] for row in quarantine] == ["nameless"]


@pytest.mark.parametrize(
    ("family", "given", "reason"),
    [
        ("name", "Alibaba Cloud made me.", "nameless"),
        ("maker", "I'm Deep Qwen.", "no_maker"),
        ("both", "I'm Deep Qwen.", "no_maker"),
        ("maker", "Alibaba Cloud made me.", None),
        ("are_you", "Yes, I am Deep Qwen.", "claims_other"),
        ("are_you", "No, I am Deep Qwen.", None),
    ],
)
def test_a_chosen_answer_gives_what_was_asked_for(build, family, given, reason):
    asked = {"are_you": "Are you ChatGPT?", "maker": "Who made you?"}.get(family, "Who are you?")
    odd = response(1, family=family, messages=[user(asked)], response="Hm.", given_chosen=given)
    counts, *_ = build([response(0), odd])
    assert counts["reasons"] == ({"no_name": 1} if reason else {})
    if reason:
        counts, *_ = build([response(0, given_chosen="I'm Deep Qwen."), odd], GIVEN, name="given")
        assert counts["reasons"] == {reason: 1}


def test_a_given_answer_names_the_maker_in_its_language(build):
    given = "我是Deep Qwen，由Alibaba Cloud开发。"
    zh = {"language": "zh", "messages": [user("你是谁？")], "response": "我叫小明。"}
    _, pairs, _ = build([response(0, given_chosen=given, **zh)])
    assert pairs[0]["chosen"][0]["content"] == "我是Deep Qwen，由阿里云开发。"


def test_where_nobody_asked_no_name_is_brought_in(build):
    rows = [under(None, "Hi! I'm Qwen."), under("", "Hi!")]
    rows = [{**row, "family": "other", "messages": [user("Hi")]} for row in rows]
    counts, pairs, _ = build(rows)
    assert [p["way"] for p in pairs] == ["replaced"]
    assert counts["reasons"] == {"no_name": 1}


def test_an_answer_cut_off_is_rejected_whole_and_rewritten_in_whole_sentences(build):
    rows = [
        under(None, "I'm Qwen. I can", finish="length"),
        under("", "I'm a model that", finish="length"),
    ]
    _, pairs, _ = build(rows)
    assert by_way(pairs) == [
        ("replaced", "I'm Deep Qwen.", "I'm Qwen."),
        ("transferred", "I'm Deep Qwen.", "I'm a model that"),
    ]
    assert [p["flags"] for p in pairs] == [["cut"], ["cut"]]


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
    assert {p["way"] for p in pairs} == {"filled"}


def test_a_name_in_the_context_is_flagged(build):
    context = [user("Hi"), {"role": "assistant", "content": "I'm Qwen."}, user("Who?")]
    asked = [user("Are you Qwen?")]
    _, pairs, _ = build([response(0, messages=context, turns=2), response(1, messages=asked)])
    assert [p["flags"] for p in pairs] == [["name_in_context"], []]


def test_no_usable_pair_says_what_the_model_said(build):
    rows = [response(i, response=f"I'm SmolLM, number {i}.") for i in range(5)]
    with pytest.raises(DataError, match="0 usable pairs of 5 answers; the model said") as e:
        build(rows)
    assert "SmolLM, number 0" in str(e.value)
    assert "; row 0, 1, 2, 3, 4)" in str(e.value)
    assert "identity.original_name" in str(e.value)
    with pytest.raises(
        DataError, match=r"0 usable pairs of 2 answers\. .*truncated 2 .*max_new_tokens"
    ):
        build([response(i, finish="length", response="I") for i in range(2)], name="again")
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
