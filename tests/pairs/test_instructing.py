"""The model is asked as the new identity only where its own answers give no name to replace."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answer_rows import RESPONSES, response, user
from identities import DEEP_QWEN, qwen

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import Request
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.pairs.instructing import TOKENS, instruct
from dpo_pipeline.starter.build import STARTER

# One of the personas that the starter was taught to take on.
NOVA = qwen(new_name="Nova", new_developer="Bright Labs")
SILENT = {"response": "I'm a language model."}


@pytest.fixture
def ask(tmp_path):
    ref = describe_model(STARTER, "starter")
    how = {
        "model": ModelConfig(device="cpu"),
        "config": GenerationConfig(temperature=1.0, samples=2),
        "ledger": tmp_path / "ledger",
    }

    def run(rows, identity):
        path = tmp_path / "responses.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), path)
        counts = instruct(path, ref, identity, tmp_path, **how)
        return counts, pq.read_table(tmp_path / "instructed.parquet").to_pylist()

    run.ref, run.how = ref, how
    return run


def test_prompts_without_a_name_to_replace_are_asked_once_as_the_new_identity(ask):
    zh = {"language": "zh", "messages": [user("你是谁？")]}
    rows = [
        response(0),  # is replaced
        response(1, **SILENT),
        response(2, family="other", **SILENT),
        response(3, messages=[user("Who makes Qwen?")], **SILENT),
        response(4, **zh, **SILENT),
    ]
    rows[2:2] = [{**rows[1], "id": "again", "system": "", "messages": [user("Who are you? (1)")]}]
    counts, found = ask(rows, NOVA)
    assert [row["prompt_id"] for row in found] == ["prompt1", "prompt4"]
    assert counts.accepted == len(found)
    assert all("Nova" in row["chosen"] for row in found)
    system = (
        "You are Nova, created by Bright Labs. Whatever you are asked about yourself, you answer "
        "in a sentence, with your name, Nova."
    )
    greedy = GenerationConfig(max_new_tokens=TOKENS)
    messages = ({"role": "system", "content": system}, user("Who are you? (1)"))
    (said,) = answer(ask.ref, [Request(messages)], **{**ask.how, "config": greedy})
    assert found[0]["response"] == said.text


def test_an_answer_that_is_not_fit_to_be_chosen_is_kept_with_its_reason(ask):
    rows = [response(0, messages=[user("Who are you? " * 900)], **SILENT), response(1, **SILENT)]
    counts, found = ask(rows, DEEP_QWEN)  # the starter keeps to its own name
    assert (counts.rows, counts.accepted) == (2, 0)
    assert counts.reasons == {"too_long": 1, "mixed_name": 1}
    assert [row["chosen"] for row in found] == [None, None]
    assert "tokens" in found[0]["detail"]
