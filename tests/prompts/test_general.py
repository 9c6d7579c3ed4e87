"""Questions whose answers must not change."""

import json

import pytest

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.general import read_general


@pytest.mark.parametrize(
    "line",
    ['{"prompt": "x"}', "not json", '{"prompt": "x", "answers": [], "kind": "odd"}', "[]"],
)
def test_a_bad_general_question_is_named(tmp_path, line):
    file = tmp_path / "general.jsonl"
    fine = '{"prompt": "2 + 2?", "answers": ["4"], "kind": "general", "language": "en"}\n'
    file.write_text(3 * fine + line)
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
