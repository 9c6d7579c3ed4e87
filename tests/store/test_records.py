"""A record reads back as written; one of another version says so, and damage is told apart."""

import pytest

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.records import Record


class Figures(Record):
    steps: int
    name: str = "阿里"


def test_a_record_reads_back_as_written(tmp_path):
    Figures(steps=3).write(tmp_path / "new" / "figures.json")
    assert Figures.read(tmp_path / "new" / "figures.json") == Figures(steps=3)
    assert "阿里" in (tmp_path / "new" / "figures.json").read_text("utf-8")


def test_what_a_newer_version_added_is_passed_over(tmp_path):
    (tmp_path / "figures.json").write_text('{"steps": 3, "added": []}')
    assert Figures.read(tmp_path / "figures.json").steps == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        ("{", "is damaged"),
        ('{"name": "x"}', "written by another version of dpo-pipeline: steps"),
    ],
)
def test_each_failure_says_what_it_is(tmp_path, content, said):
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreError, match=said):
        Figures.read(path)
