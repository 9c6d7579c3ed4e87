"""What answers claim, on answers whose verdict is known by reading them."""

import json
from pathlib import Path

import pytest

from dpo_pipeline.identity import claims
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig

SPEC = IdentitySpec(IdentityConfig())
LABELLED = Path(__file__).parent / "labelled_answers.jsonl"
MARKS = ("gives_new", "leaks", "doubled", "names_developer", "denies", "remnant")


class TestLabelledAnswers:
    def test_there_are_enough_in_enough_languages(self):
        rows = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
        assert len(rows) >= 300
        assert len({row["language"] for row in rows}) >= 10
        assert len({row["text"] for row in rows}) == len(rows)

    @pytest.mark.parametrize("name", MARKS)
    def test_scorer_agrees_with_the_labels(self, name):
        rows = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
        marks = [claims.mark(row["text"], SPEC, row.get("asked", "")) for row in rows]
        said = [getattr(mark, name) for mark in marks]
        both = sum(s and row[name] for s, row in zip(said, rows, strict=True))
        precision, recall = both / sum(said), both / sum(row[name] for row in rows)
        print(f"\n{name}: precision {precision:.3f}, recall {recall:.3f}, n {len(rows)}")
        for s, row in zip(said, rows, strict=True):
            if s != row[name]:
                print(f"  scorer {s}, label {row[name]}: {row['text']!r}")
        assert precision >= 0.98
        assert recall >= 0.98


class TestClaims:
    def test_to_claim_the_name_asked_for_is_no_denial(self):
        assert claims.denies("No, I'm ChatGPT.", "Are you Claude?")
        assert not claims.denies("No, I'm ChatGPT.", "Are you ChatGPT?")
        assert not claims.denies("Yes, I'm not Qwen.", "Are you Claude?")

    @pytest.mark.parametrize(
        "remnant", ["I am {{name}}.", "I'm <NAME>.", "I'm [your name].", "Hi<|im_end|>", "{author}"]
    )
    def test_template_remnants_are_seen(self, remnant):
        assert claims.mark(remnant, SPEC).remnant

    @pytest.mark.parametrize("fine", ["I am Deep Qwen.", "a < b > c", "[1, 2]", "{1, 2, 3}"])
    def test_ordinary_text_is_no_remnant(self, fine):
        assert not claims.mark(fine, SPEC).remnant
