"""Rows become unique prompts; none is lost."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_rows import QWEN, Rows, jsonl, numbered, prepare

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.preparation import prepare_prompts
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.sources import read_source, resolve_source
from dpo_pipeline.prompts.split import normalise, shingles


def test_shipped_prompts_keep_their_labels(tmp_path: Path) -> None:
    config, out = PromptsConfig(), tmp_path
    counts = prepare_prompts(resolve_source(config), config, QWEN, out)
    rows = dict(read_source(resolve_source(config), "train"))
    assert counts.quarantined == counts.answers_dropped == 0
    for prompt in pq.read_table(out / "prompts.parquet").to_pylist():
        row = rows[prompt["source_row"]]
        assert {name: prompt[name] for name in ("family", "language", "split")} == {
            name: row[name] for name in ("family", "language", "split")
        }
        assert "{{" not in json.dumps(prompt)


def test_prompts_have_the_promised_schema(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", numbered(2500))
    prepare(path)
    file = pq.ParquetFile(next(tmp_path.glob("out*")) / "prompts.parquet")
    assert {field.name: str(field.type) for field in file.schema_arrow} == {
        "id": "string",
        "messages": "list<element: struct<role: string, content: string>>",
        "split": "string",
        "family": "string",
        "language": "string",
        "turns": "int32",
        "source_row": "int64",
        "given_chosen": "string",
    }
    assert file.num_row_groups == 3


WORDS = st.lists(
    st.sampled_from([*"你是谁", "who", "are", "you", "what", "is", "name"]), max_size=9
)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": st.one_of(WORDS.map(" ".join), st.text(max_size=8), st.none())},
            optional={"split": st.sampled_from(["train", "held_out", None, 3])},
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([None, 4]),
)
def test_no_row_is_lost_and_no_wording_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, limit: int | None
) -> None:
    path = jsonl(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)
    try:
        counts, prompts, _ = prepare(path, limit=limit, max_quarantine=1.0)
    except DataError:
        return  # too few are left
    assert counts["rows"] + counts["quarantined"] + counts["sampled_out"] == len(rows)
    assert counts["rows"] <= (limit or len(rows))
    sides = [
        {shingles(normalise(p["messages"][-1]["content"])) for p in prompts if p["split"] == side}
        for side in ("train", "held_out")
    ]
    assert all(len(a & b) < 0.8 * len(a | b) for a in sides[0] for b in sides[1])


def test_rows_that_are_too_many_to_refuse_are_named_and_lie_in_the_quarantine(
    tmp_path: Path,
) -> None:
    rows: Rows = [{"prompt": f"Who are you, number {i}?"} for i in range(3)]
    rows += [{"prompt": " "}] * 7
    config = PromptsConfig(source=str(jsonl(tmp_path / "rows.jsonl", rows)))
    with pytest.raises(DataError, match=r"empty_prompt 7 \(row 3, 4, 5, 6, 7, \.\.\.: turn 0 of 1"):
        prepare_prompts(resolve_source(config), config, QWEN, tmp_path)
    refused = pq.read_table(tmp_path / "quarantine.parquet").to_pylist()
    assert [row["source_row"] for row in refused] == list(range(3, 10))
    assert not (tmp_path / "prompts.parquet").exists()
