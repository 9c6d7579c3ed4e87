"""What is asked: prompts, general questions and system prompts."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted import case
from shipped import general_rows
from taught import IDENTITY, NEUTRAL, QUESTIONS

from dpo_pipeline.errors import DataError
from dpo_pipeline.evaluation import cases
from dpo_pipeline.evaluation.settings import EvaluationConfig


def plan_of(work, **config):
    limits = EvaluationConfig(general=str(work / "general.jsonl"), **config)
    return cases.plan_cases(work / "prompts.parquet", IDENTITY, (None, NEUTRAL), limits)


def test_prompts_about_others_are_no_identity_prompts(work):
    rows = pq.read_table(work / "prompts.parquet").to_pylist()
    rows[0]["family"] = "third_party"
    pq.write_table(pa.Table.from_pylist(rows), work / "prompts.parquet")
    assert len(plan_of(work)["held_out"]) == 2 * (len(QUESTIONS) - 1)


def test_samples_are_small_and_always_the_same(work):
    plan = plan_of(work, max_prompts=3, matrix_prompts=2)
    assert plan == plan_of(work, max_prompts=3, matrix_prompts=2)
    assert [c.system for c in plan["held_out"]] == 3 * [None] + 3 * [NEUTRAL]
    assert {len(many) for g, many in plan.items() if g.startswith("matrix/")} == {2}
    assert plan["matrix/empty"][0].system == ""


@pytest.mark.parametrize(
    "line",
    ['{"prompt": "x"}', "not json", '{"prompt": "x", "answers": [], "kind": "odd"}', "[]"],
)
def test_a_bad_general_question_is_named(work, line):
    file = work / "general.jsonl"
    file.write_text(file.read_text() + line)
    with pytest.raises(DataError, match=r"general\.jsonl, line 4.*each line must look like"):
        cases.read_general(str(file))


def test_the_shipped_general_questions_can_be_read():
    found = cases.read_general(None)
    assert {c.kind for c in found} == {"general", "third_party"}
    assert len(found) > 50


def test_a_system_prompt_makes_no_other_prompt():
    plain = case("I'm Qwen.")
    system = {"role": "system", "content": "You help."}
    assert replace(plain, messages=(system, *plain.messages)).prompt == plain.prompt


def test_shipped_general_questions_have_accepted_answers():
    general = general_rows()
    assert len({row["prompt"] for row in general}) == len(general) >= 120
    for row in general:
        assert set(row) == {"prompt", "answers", "kind", "language"}
        assert row["answers"]
        assert all(answer.strip() for answer in row["answers"])
    assert sum(row["kind"] == "third_party" for row in general) >= 15
