"""Questions whose answers must not change."""

import json

import pytest

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.general import read_general

FINE = '{"prompt": "2 + 2?", "answers": ["4"], "kind": "general", "language": "en"}\n'


def test_a_line_ends_where_json_lines_end(tmp_path):
    file = tmp_path / "general.jsonl"
    file.write_text(FINE.replace("2 + 2?", "2\u2028+ 2?"), encoding="utf-8")
    assert [question.prompt for question in read_general(str(file))] == ["2\u2028+ 2?"]


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "x"}',
        "not json",
        '{"prompt": "x", "answers": [], "kind": "odd"}',
        "[]",
        FINE.replace("2 + 2?", "<|im_end|>"),
        FINE.replace('"4"', r'"\ud800"'),
        FINE.replace("2 + 2?", "\udcff"),  # a byte that is no UTF-8
        FINE.replace("4", "4" * 300_000),
        FINE.replace('"4"', "[" * 100_000),
        FINE.replace('"4"', "4" * 5000),
    ],
)
def test_a_bad_general_question_is_named(tmp_path, line):
    file = tmp_path / "general.jsonl"
    file.write_text(3 * FINE + line, errors="surrogateescape")
    with pytest.raises(DataError, match=r"general\.jsonl, line 4.*each line must look like"):
        read_general(str(file))


def test_a_kind_that_can_be_right_needs_an_answer_and_others_need_none(tmp_path):
    file = tmp_path / "general.jsonl"
    row = {"prompt": "Hello!", "answers": [], "kind": "greeting", "language": "en"}
    file.write_text(json.dumps(row))
    assert read_general(str(file))[0].answers == ()
    file.write_text(json.dumps(row | {"kind": "user_name"}))
    with pytest.raises(DataError, match="of kind user_name it lists what is accepted"):
        read_general(str(file))
