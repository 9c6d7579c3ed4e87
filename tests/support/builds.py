"""What stages of the tests of the store build."""

from pathlib import Path

from dpo_pipeline.store.records import Record


class Counts(Record):
    rows: int = 0
    unfinished: int = 0


def write_two(out: Path, _work: Path) -> Counts:
    (out / "data").mkdir()
    (out / "data" / "rows.txt").write_text("one\ntwo\n")
    (out / "info.json").write_text("{}")
    return Counts(rows=2)


def must_not_build(out: Path, _work: Path) -> Counts:
    raise AssertionError("a good artifact was built again")
