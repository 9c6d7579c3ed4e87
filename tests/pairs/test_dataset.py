"""The dataset says what it holds and where it came from."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from answer_rows import response, saved
from lineage import LINEAGE
from tiny import DEFAULT_SYSTEM

from dpo_pipeline.errors import DataError
from dpo_pipeline.pairs.schema import COLUMNS
from dpo_pipeline.pairs.settings import PairsConfig


def test_too_low_a_yield_stops_with_the_reasons(build, tmp_path):
    silent = [response(i, response=f"I'm nobody {i}") for i in range(2, 12)]
    build([response(0), response(1), *silent])
    with pytest.raises(DataError, match=r"pairs\.min_pairs") as error:
        saved(tmp_path, PairsConfig(min_pairs=3))
    assert "2 usable pairs of 12 answers" in str(error.value)
    assert "no_name 10 (the answer does not give the original name" in str(error.value)
    assert "; row 2, 3, 4, 5, 6, ...)" in str(error.value)
    (tmp_path / "dataset").rename(tmp_path / "first")
    with pytest.raises(DataError, match=r"20% of the answers"):
        saved(tmp_path, PairsConfig(min_pairs=1, min_yield=0.2))
    (tmp_path / "dataset").rename(tmp_path / "second")
    counts, _ = saved(tmp_path, PairsConfig(min_pairs=2, min_yield=0.1))
    assert counts["yield"] == pytest.approx(2 / 12, abs=1e-4)


def test_every_kind_of_pair_takes_its_turn_from_the_start(build, tmp_path):
    rows = [response(i, split="train", language="de" if i in (3, 8) else "en") for i in range(10)]
    build(rows)
    _, out = saved(tmp_path)
    order = pq.read_table(out / "train.parquet")["language"].to_pylist()
    assert sorted(order[:2]) == sorted(order[2:4]) == ["de", "en"]
    assert order[4:] == ["en"] * 6


def test_a_prompt_on_both_sides_of_the_split_is_refused(build, tmp_path):
    build([response(0), response(1, prompt_id="prompt0", split="held_out")])
    with pytest.raises(DataError, match=r"\(row 0\): the split leaks"):
        saved(tmp_path)


def test_data_set_says_what_it_is_and_where_it_came_from(build, tmp_path):
    build([*(response(i) for i in range(9)), response(9, finish="length", response="I am Qwen, a")])
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
        assert metadata["ways"] == ["replaced", "transferred", "instructed", "filled"]
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
