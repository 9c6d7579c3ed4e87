"""The general questions that ship."""

import pytest
from shipped import general_rows


@pytest.fixture(scope="module")
def general():
    return general_rows()


class TestGeneralQuestions:
    def test_rows_have_accepted_answers(self, general):
        assert len({row["prompt"] for row in general}) == len(general) >= 120
        for row in general:
            assert set(row) == {"prompt", "answers", "kind", "language"}
            assert row["answers"]
            assert all(answer.strip() for answer in row["answers"])
        assert sum(row["kind"] == "third_party" for row in general) >= 15
