"""Questions whose answers must not change."""

import pytest
from shipped import general_rows

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


def test_the_shipped_general_questions_can_be_read():
    found = read_general(None)
    assert {c.kind for c in found} == {"general", "third_party"}
    assert len(found) > 50


def test_shipped_general_questions_have_accepted_answers():
    general = general_rows()
    assert len({row["prompt"] for row in general}) == len(general) >= 120
    for row in general:
        assert set(row) == {"prompt", "answers", "kind", "language"}
        assert row["answers"]
        assert all(answer.strip() for answer in row["answers"])
    assert sum(row["kind"] == "third_party" for row in general) >= 15
