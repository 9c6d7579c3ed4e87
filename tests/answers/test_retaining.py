"""What the reference says to general prompts, which training holds."""

import pyarrow as pa
import pyarrow.parquet as pq
from asking import GREEDY, HERE

from dpo_pipeline.answers.retaining import answer_retention, common_languages, pick_retention
from dpo_pipeline.prompts.retention import RetentionPrompt, read_retention, retention_file


def test_languages_count_from_a_fair_share_on(tmp_path):
    rows = [
        {"language": code} for code, n in {"en": 30, "zh": 4, "de": 1}.items() for _ in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert common_languages(tmp_path / "rows.parquet") == ("en", "zh")


def test_a_draw_is_the_same_every_time_and_of_all_languages():
    file = retention_file(None)
    drawn = pick_retention(file, 200)
    assert drawn == pick_retention(file, 300)[:200]
    assert {"en", "zh"} <= {prompt.language for prompt in drawn}
    assert len(pick_retention(file, None)) == len(read_retention(None))


def test_each_prompt_is_answered_once_under_its_own_system_prompt_or_one_in_turn(ref, tmp_path):
    plain = [RetentionPrompt(({"role": "user", "content": f"Q{i}"},), "greetings", "en")
             for i in range(3)]  # fmt: skip
    told = RetentionPrompt(({"role": "user", "content": "Who?"},), "personas", "en", "You are Max.")
    config = GREEDY.model_copy(update={"system_prompts": (None, "Help.")})
    how = {"model": HERE, "config": config, "ledger": tmp_path / "ledger"}
    stats = answer_retention(ref, [*plain, told], 5, tmp_path, **how)
    rows = pq.read_table(tmp_path / "retention.parquet").to_pylist()
    assert stats.rows == len(rows) == sum(stats.families.values())
    assert all(0 < row["tokens"] <= 5 for row in rows)
    asked = {row["messages"][-1]["content"]: row["messages"][0] for row in rows}
    systems = {"Q0": "Q0", "Q1": "Help.", "Q2": "Q2", "Who?": "You are Max."}
    assert asked.keys() <= systems.keys()
    assert {text: first["content"] for text, first in asked.items()} == {
        text: systems[text] for text in asked
    }
