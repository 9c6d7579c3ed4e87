"""Mentions of a name, and of somebody else; claims, on answers whose verdict is known."""

import json
from collections import Counter
from pathlib import Path

import pytest
from identities import QWEN, spec

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.mentions import IdentitySpec, denies, mark
from dpo_pipeline.identity.settings import IdentityConfig

LABELLED = Path(__file__).parent / "labelled_answers.jsonl"
MARKS = ("gives_new", "leaks", "doubled", "names_developer", "denies", "remnant")


def test_sees_doubled_names() -> None:
    for text in (
        "I'm Deep Deep Qwen",
        "Deep Qwen Qwen",
        "deep  deep qwen",
        "Deep Qwen (Deep Qwen)",
        "Deep Qwen Deep Qwen",
        "Deep Qwen/Deep Qwen",
        "Deep Qwen（Deep Qwen）",
    ):
        assert QWEN.is_doubled(text), text
    for text in ("Deep Qwen, Qwen", "Deep Qwen", "Qwen Qwen", "Deep, Deep Qwen"):
        assert not QWEN.is_doubled(text), text
    assert spec(new_name="Bob").is_doubled("I am Bob Bob")


def test_counts_the_new_name_where_it_stands_alone() -> None:
    assert QWEN.count_new("Deep Qwen, deep  qwen; Deep **Qwen**. 我是Deep Qwen。") == 4
    assert QWEN.count_new("I am Deep-Qwen.") == 1
    assert QWEN.count_new("Deep Qwen2, xDeep Qwen, Deep QwenLM, Qwen") == 0


@pytest.mark.parametrize(
    "prompt",
    [
        "Who makes Qwen?",
        "What is Qwen2.5?",
        "Qwen是谁开发的？",
        "who develops QWEN",
        "通义千问是什么？",
        "Can you tell me who made Qwen?",
        "Do you know Qwen?",
        "Could you please explain what Qwen is?",
        "Have you ever heard of Qwen?",
        "What do you think of Qwen?",
        "你了解通义千问吗？",
        "你能介绍一下通义千问吗？",
    ],
)
def test_third_party_asks_about_a_model_by_name(prompt: str) -> None:
    assert QWEN.is_third_party(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "Are you Qwen?",
        "Hi Qwen, who made the moon?",
        "Qwen: what is new?",
        "What is the capital of Peru, Qwen?",
        "Is this Qwen?",
        "Am I talking to Qwen?",
        "你是Qwen吗？",
        "我在和Qwen聊天吗？",
        "Bist du Qwen?",
        "Ben jij Qwen?",
        "Can you tell me whether you are Qwen?",
        "Do you know if your name is Qwen?",
        "你知道你是通义千问吗？",
        "你能介绍一下自己吗，通义千问？",
        "Who makes ChatGPT?",
        "Hello",
    ],
)
def test_self_is_no_third_party(prompt: str) -> None:
    assert not QWEN.is_third_party(prompt)


class TestLabelledAnswers:
    def test_there_are_enough_in_enough_languages(self):
        rows = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
        assert len(rows) >= 690
        assert len({row["language"] for row in rows}) >= 10
        assert len({row["text"] for row in rows}) == len(rows)

    @pytest.mark.parametrize("name", MARKS)
    def test_scorer_agrees_with_the_labels(self, name):
        rows = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
        marks = [mark(row["text"], QWEN, row.get("asked", "")) for row in rows]
        said = [getattr(mark, name) for mark in marks]
        both = sum(s and row[name] for s, row in zip(said, rows, strict=True))
        precision, recall = both / sum(said), both / sum(row[name] for row in rows)
        print(f"\n{name}: precision {precision:.3f}, recall {recall:.3f}, n {len(rows)}")
        for s, row in zip(said, rows, strict=True):
            if s != row[name]:
                print(f"  scorer {s}, label {row[name]}: {row['text']!r}")
        assert precision >= 0.98
        assert recall >= 0.98

    @pytest.mark.parametrize("name", MARKS)
    def test_no_language_is_read_worse_than_the_others(self, name):
        rows = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
        wrong: dict[str, list[str]] = {}
        for row in rows:
            if getattr(mark(row["text"], QWEN, row.get("asked", "")), name) != row[name]:
                wrong.setdefault(row["language"], []).append(row["text"])
        asked = Counter(row["language"] for row in rows)
        many = {code: t for code, t in wrong.items() if len(t) > max(1, asked[code] // 50)}
        assert many == {}


class TestClaims:
    def test_to_claim_the_name_asked_for_is_no_denial(self):
        assert denies("No, I'm ChatGPT.", "Are you Claude?")
        assert not denies("No, I'm ChatGPT.", "Are you ChatGPT?")
        assert not denies("Yes, I'm not Qwen.", "Are you Claude?")

    @pytest.mark.parametrize(
        "remnant", ["I am {{name}}.", "I'm <NAME>.", "I'm [your name].", "Hi<|im_end|>", "{author}"]
    )
    def test_template_remnants_are_seen(self, remnant):
        assert mark(remnant, QWEN).remnant

    @pytest.mark.parametrize("fine", ["I am Deep Qwen.", "a < b > c", "[1, 2]", "{1, 2, 3}"])
    def test_ordinary_text_is_no_remnant(self, fine):
        assert not mark(fine, QWEN).remnant


class TestMend:
    @pytest.mark.parametrize(
        ("written", "proper"),
        [
            ("I'm DeepQwen.", "I'm Deep Qwen."),
            ("I'm Deep-Qwen, deep_qwen", "I'm Deep Qwen, deep qwen"),
            ("DEEPQWEN", "DEEP QWEN"),
            ("Deep  Qwen", "Deep Qwen"),
            ("我是深Qwen。", "我是Deep Qwen。"),
            ("我是深度Qwen", "我是Deep Qwen"),
        ],
    )
    def test_joined_and_odd_spellings_become_the_name(self, written, proper):
        assert QWEN.mend(written) == proper
        assert QWEN.mend(proper) == proper

    @pytest.mark.parametrize(
        "text",
        ["Deep Qwen", "deep qwen", "DeepQwen2", "xDeepQwen", "`DeepQwen`", "https://a.b/DeepQwen"],
    )
    def test_a_proper_or_another_name_stays(self, text):
        assert QWEN.mend(text) == text

    def test_a_name_in_two_cases_may_come_apart(self):
        assert spec(new_name="NovaMind").mend("I am Nova Mind.") == "I am NovaMind."

    def test_a_common_word_is_mended_in_its_own_case_only(self):
        llama = spec(original_name="Llama", new_name="Deep Llama", any_case=False)
        assert llama.mend("DeepLlama or a deep llama") == "Deep Llama or a deep llama"


def test_without_an_original_name_nothing_leaks_and_nothing_is_rewritten() -> None:
    nobody = spec(original_name=None, new_name="Aria", new_developer="Acme")
    text = "I am Elena, made by OpenAI. I am Aria, made by Acme."
    assert nobody.rewrite(text).text == text
    assert (nobody.count_original(text), nobody.count_new(text)) == (0, 1)
    assert nobody.names_developer(text, after=True)
    assert not nobody.is_third_party("Who makes Qwen?")
    assert nobody.is_doubled("Aria Aria")


def test_an_identity_that_is_left_to_the_census_cannot_be_used() -> None:
    with pytest.raises(DataError, match="left to the census"):
        IdentitySpec(IdentityConfig())
