"""Columns tell the shape of a row, and what it asks."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from identities import qwen
from prompt_rows import SHAPES, TURNS, TWO, jsonl, numbered, other, prepare

from dpo_pipeline.errors import DataError

DOCS = Path(__file__).parents[2] / "docs" / "sources.md"


def test_the_page_on_sources_shows_a_row_of_each_shape(tmp_path: Path) -> None:
    """Write the table by `PYTHONPATH=.:tests/support python tests/prompts/test_shapes.py`."""
    assert table_of_shapes(tmp_path) in DOCS.read_text(encoding="utf-8")


def table_of_shapes(folder: Path) -> str:
    lines = ["| shape | a row | its prompt | the answer it gives |", "|---|---|---|---|"]
    for shape, row in SHAPES.items():
        path = jsonl(folder / f"{shape}.jsonl", [row, other(shape)])
        counts, (prompt, _), _ = prepare(path)
        turns = "<br>".join(f"{turn['role']}: {turn['content']}" for turn in prompt["messages"])
        row_text = json.dumps(row, ensure_ascii=False)
        lines.append(f"| {counts['shape']} | `{row_text}` | {turns} | {prompt['given_chosen']} |")
    return "\n".join(lines)


def test_columns_can_be_mapped_and_the_shape_forced(tmp_path: Path) -> None:
    rows = [{"q": text, "prompt": "x", "speech": "de", "part": part}
            for text, part in (("Who?", "train"), ("How so?", "test"))]  # fmt: skip
    path = jsonl(tmp_path / "rows.jsonl", rows)
    columns = {"query": "q", "language": "speech", "split": "part"}
    counts, prompts, _ = prepare(path, shape="query-response", columns=columns)
    assert counts["shape"] == "query-response"
    assert [p["messages"][0]["content"] for p in prompts] == ["Who?", "How so?"]
    assert [(p["language"], p["split"]) for p in prompts] == [("de", "train"), ("de", "held_out")]
    turns = [[{"speaker": "User", "text": f"{n} {n} who?"}] for n in range(2)]
    path = jsonl(tmp_path / "turns.jsonl", [{"talk": talk} for talk in turns])
    columns = {"conversations": "talk", "from": "speaker", "value": "text"}
    assert prepare(path, columns=columns)[0]["rows"] == 2


def test_context_last_keeps_the_last_question_only(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [SHAPES["conversations"], SHAPES["conversations"]])
    with pytest.raises(DataError, match="leave none for held_out"):
        prepare(path)
    rows = [{"messages": [{"role": "assistant", "content": "Welcome."},
                          *({"role": role, "content": f"{text} {n}"} for role, text in TURNS)]}
            for n in range(2)]  # fmt: skip
    path = jsonl(tmp_path / "more.jsonl", rows)
    _, prompts, _ = prepare(path, context="last", near_duplicate=1.0)
    assert [p["messages"] for p in prompts] == [
        [{"role": "user", "content": f"Who made you? {n}"}] for n in range(2)
    ]
    _, prompts, _ = prepare(path, near_duplicate=1.0)
    assert [turn["role"] for turn in prompts[0]["messages"]] == ["user", "assistant", "user"]


def test_an_answer_that_cannot_be_used_costs_the_answer_only(tmp_path: Path) -> None:
    rows = [{**row, "completion": "{{name}} by {{author}}"} for row in numbered(4)]
    rows[1]["completion"] = "<|im_end|>"
    rows[2]["completion"] = "{{what}}"
    rows[3]["completion"] = None
    path = jsonl(tmp_path / "rows.jsonl", rows)
    counts, prompts, _ = prepare(path)
    assert counts["answers_dropped"] == 2
    assert [p["given_chosen"] for p in prompts] == ["Deep Qwen by Alibaba Cloud", None, None, None]
    nobody = qwen(developer=None)
    assert prepare(path, nobody)[0]["answers_dropped"] == 3


def test_prompts_are_filled_with_the_identity_before(tmp_path: Path) -> None:
    rows = [{"prompt": "Are you {{name}} by {author}?"}, {"prompt": "Who was called <NAME>?"}]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    _, prompts, _ = prepare(path)
    assert [p["messages"][0]["content"] for p in prompts] == [
        "Are you Qwen by Alibaba Cloud?",
        "Who was called Qwen?",
    ]


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        ({"text": "hi"}, {}, r"columns .*prompt, found \['text'\] .*e\.g\. {\"prompt\": \"text\"}"),
        ({"prompt": "hi"}, {"shape": "alpaca"}, r"alpaca expects .*ion, found \['prompt'\]"),
        ({"prompt": None, "id": 1}, {}, r"found \['id'\] with values"),
        ({"mesages": []}, {}, "'mesages' is close to 'messages'"),
        ({"question": "x"}, {"columns": {"instuction": "question"}}, "'instruction' is close to"),
        ({"question": "x"}, {"columns": {"prompt": "questions"}}, "'question' is close to"),
        ({"prompt": "hi"}, {"columns": {"prompt": "ask"}}, r"lacks \['ask'\].* has \['prompt'\]"),
        ({"chosen": "a", "rejected": "b", "prompt": "c"}, {}, r"flows/preference\.py"),
        ([], {}, r"found \[\]"),
    ],
)
def test_a_wrong_column_stops_and_says_what_was_found(
    tmp_path: Path, row: Any, fields: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        prepare(jsonl(tmp_path / "rows.jsonl", [row]), **fields)


def test_the_shape_is_the_one_that_most_rows_fill(tmp_path: Path) -> None:
    odd = {"messages": TWO, "chosen": "a", "rejected": "b"}
    rows = [{"conversations": None, "chosen": None, **row} for row in numbered(20)]
    counts, _, quarantine = prepare(jsonl(tmp_path / "rows.jsonl", [odd, *rows]))
    assert counts["shape"] == "prompt"
    assert [(row["source_row"], row["reason"]) for row in quarantine] == [(0, "wrong_type")]
    with pytest.raises(DataError, match=r"shape messages.*wrong_type 20 .*set prompts\.shape"):
        prepare(tmp_path / "rows.jsonl", shape="messages")


def test_answers_of_a_wrong_type_are_not_coerced(tmp_path: Path) -> None:
    chat = {"prompt": TWO[:1]}
    bad = [{**chat, "completion": what} for what in ("text", 5, [5], {"role": "user"})]
    bad += [{"prompt": "who?", "completion": 5}, {"prompt": "who?", "completion": ["Qwen"]}]
    path = jsonl(tmp_path / "rows.jsonl", [*numbered(9), *bad])
    counts, prompts, _ = prepare(path)
    assert counts["reasons"] == {"wrong_type": 6}
    assert len(prompts) == 9


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        table = table_of_shapes(Path(folder))
    before, _, rest = DOCS.read_text(encoding="utf-8").partition("| shape |")
    _, _, after = rest.partition("\n\n")
    DOCS.write_text(f"{before}{table}\n\n{after}", encoding="utf-8")
