"""The identity prompts that ship: rows, families, split."""

from collections import Counter

import pytest
from shipped import SHOWN, identity_rows, question

FAMILIES = {"name", "maker", "are_you", "both", "multi_turn", "indirect", "adversarial"}


@pytest.fixture(scope="module")
def identity():
    return identity_rows()


class TestIdentityPrompts:
    def test_rows_are_conversations_that_end_in_an_answer(self, identity):
        for row in identity:
            assert set(row) == {"conversations", "family", "language", "split"}
            speakers = [turn["from"] for turn in row["conversations"]]
            assert speakers == ["human", "gpt"] * (len(speakers) // 2)
            assert all(turn["value"].strip() for turn in row["conversations"])
            assert row["family"] in FAMILIES
            assert (len(speakers) > 2) == (row["family"] == "multi_turn")

    def test_prompts_are_distinct(self, identity):
        prompts = {tuple(t["value"] for t in row["conversations"][:-1]) for row in identity}
        assert len(prompts) == len(identity) >= 450

    def test_held_out_covers_every_family_in_both_languages(self, identity):
        held_out = [row for row in identity if row["split"] == "held_out"]
        assert len(held_out) >= 110
        assert 0.05 <= len(held_out) / len(identity) <= 0.25
        counts = Counter((row["language"], row["family"]) for row in held_out)
        assert all(counts["en", family] >= 8 for family in FAMILIES)
        assert all(counts["zh", family] >= 3 for family in FAMILIES)

    def test_only_final_answers_name_anybody(self, identity):
        for row in identity:
            *earlier, last = row["conversations"]
            assert "{{name}}" in last["value"]
            spoken = [turn["value"] for turn in earlier if turn["from"] == "gpt"]
            assert not any("{{" in text or "Qwen" in text for text in spoken)

    def test_shown_questions_are_there(self, identity):
        assert set(SHOWN) <= {question(row) for row in identity}
