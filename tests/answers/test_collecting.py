"""From prompts.parquet to responses.parquet."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from asking import GREEDY, HERE, SAMPLED, write_prompts

from dpo_pipeline.answers import answering, collecting
from dpo_pipeline.answers.collecting import (
    AnswerStats,
    collect_responses,
    count_answers,
    plan_ranges,
)
from dpo_pipeline.answers.records import Response
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.models.references import resolve_model


def test_ranges_cover_every_prompt_once(tmp_path):
    prompts = write_prompts(tmp_path / "prompts.parquet", 23)
    ranges = plan_ranges(prompts, GREEDY, 10)  # two system prompts: 5 prompts
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(23))
    assert max(stop - start for start, stop in ranges) == 5


@pytest.mark.parametrize("group", [1, 4, 7, 100])
def test_a_range_reads_its_own_prompts_from_row_groups_of_any_size(tmp_path, group):
    prompts = write_prompts(tmp_path / "prompts.parquet", 23)
    pq.write_table(pq.read_table(prompts), prompts, row_group_size=group)
    for start, stop in ((0, 23), (0, 1), (3, 4), (4, 8), (6, 21), (22, 23)):
        found = collecting._read_range(prompts, start, stop)
        assert [row["id"] for row in found] == [f"p{i}" for i in range(start, stop)]


def test_responses_hold_every_prompt_under_every_system_prompt(ref, tmp_path, monkeypatch):
    prompts = write_prompts(tmp_path / "prompts.parquet", 12)
    config = SAMPLED.model_copy(
        update={"system_prompts": (None, "Be brief."), "samples": 2, "shard_rows": 20}
    )
    options = {"model": HERE, "config": config, "ledger": tmp_path / "ledger"}
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(collecting, "COLLECTED", 20)
    told = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    stats = collect_responses(ref, prompts, tmp_path / "out", tell, **options)
    assert told[-1] == (48, 48)
    assert sorted(told) == told  # one count, over all ranges
    assert stats.rows == stats.stop + stats.length == 48
    assert (stats.checked, stats.mismatched) == (1, 0)
    rows = pq.read_table(tmp_path / "out" / "responses.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == 48
    assert Counter((row["system"], row["sample"]) for row in rows) == {
        (system, sample): 12 for system in (None, "Be brief.") for sample in (0, 1)
    }
    for row in rows:
        assert [m["role"] for m in row["messages"]] == (["system"] if row["system"] else []) + [
            "user"
        ]
        assert row["source_row"] == 100 + int(row["prompt_id"][1:])
        assert row["split"] == ("held_out" if row["source_row"] % 5 == 0 else "train")
        assert row["reason"] is None
    json.dumps(stats.model_dump(mode="json"))


def test_collecting_makes_what_the_ledger_lacks_and_reports_mismatches(ref, tmp_path, monkeypatch):
    prompts = write_prompts(tmp_path / "prompts.parquet", 6)
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path / "ledger"}
    out = tmp_path / "out"
    out.mkdir()
    assert collect_responses(ref, prompts, out=out, **options).mismatched == 0
    shutil.rmtree(tmp_path / "ledger")
    real = answering.answer

    def rounded(*args, alone=False, **kwargs):
        found = real(*args, **kwargs)
        return [r.model_copy(update={"text": r.text + "x"}) for r in found] if alone else found

    monkeypatch.setattr(collecting, "answer", rounded)
    stats = collect_responses(ref, prompts, out=out, **options)
    assert (stats.rows, stats.checked, stats.mismatched) == (12, 1, 1)


def test_no_answer_at_all_stops_with_the_reason(ref, tmp_path):
    folder = Path(shutil.copytree(ref.path, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no talking') }}")
    other = resolve_model(str(folder))
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path / "ledger"}
    prompts = write_prompts(tmp_path / "prompts.parquet", 3)
    with pytest.raises(GenerationError, match=r"none of 6 prompts was answered.*no talking"):
        collect_responses(other, prompts, out=tmp_path, **options)


def test_ids_do_not_depend_on_shards_or_other_prompts(ref, tmp_path):
    few = write_prompts(tmp_path / "few.parquet", 3)
    many = write_prompts(tmp_path / "many.parquet", 9)
    found = []
    for prompts in (few, many):
        out = tmp_path / prompts.stem
        out.mkdir()
        collect_responses(
            ref, prompts, model=HERE, config=GREEDY, ledger=tmp_path / "ledger", out=out
        )
        table = pq.read_table(out / "responses.parquet", columns=["id", "response"])
        found.append({(row["id"], row["response"]) for row in table.to_pylist()})
    assert found[0] < found[1]


def test_answers_are_counted_by_how_they_ended():
    responses = [
        Response(text="I am", finish="stop", tokens=2),
        Response(text="I am a", finish="length", tokens=3),
        Response.failed("HTTP 503"),
        Response.failed("HTTP 400", "refused"),
    ]
    counts = AnswerStats(**count_answers(responses))
    assert (counts.rows, counts.stop, counts.length, counts.error) == (4, 1, 1, 2)
    assert (counts.unfinished, counts.tokens) == (1, 5)  # a refusal does not pass by itself


def test_in_turn_each_prompt_meets_one_system_prompt_whatever_the_ranges(tmp_path):
    prompts = write_prompts(tmp_path / "prompts.parquet", 23)
    systems = (None, "You help.", "")
    config = GREEDY.model_copy(update={"system_prompts": systems, "in_turn": True})
    ranges = plan_ranges(prompts, config, 5)
    assert ranges[0] == (0, 5)
    rows = [row for part in ranges for row, _ in collecting._expand(prompts, part, config)]
    assert [row["system"] for row in rows] == [systems[i % 3] for i in range(len(rows))]
    assert len({row["prompt_id"] for row in rows}) == len(rows) == 23


@pytest.mark.parametrize(("prompts", "each"), [(1000, 3), (1001, 1)])
def test_many_prompts_meet_one_system_prompt_each_where_nothing_is_said(tmp_path, prompts, each):
    file = write_prompts(tmp_path / "prompts.parquet", prompts)
    config = GREEDY.model_copy(update={"system_prompts": (None, "Help.", "")}).settle(prompts)
    (part,) = plan_ranges(file, config, 1 << 15)
    assert len(list(collecting._expand(file, part, config))) == prompts * each
