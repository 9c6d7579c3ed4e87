"""What is asked: prompts, general questions and system prompts."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
from planted import case
from taught import IDENTITY, NEUTRAL, QUESTIONS

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


def test_a_system_prompt_makes_no_other_prompt():
    plain = case("I'm Qwen.")
    system = {"role": "system", "content": "You help."}
    assert replace(plain, messages=(system, *plain.messages)).prompt == plain.prompt
