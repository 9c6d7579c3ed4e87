"""Makers and assistants by all their spellings."""

import pytest

from dpo_pipeline.identity.vendors import VENDORS, family_of, first_maker, usual_maker


@pytest.mark.parametrize(
    ("text", "maker"),
    [
        ("Claude was made by Anthropic, ChatGPT by OpenAI.", "Anthropic"),
        ("由阿里云开发", "Alibaba Cloud"),
        ("It is by Google DeepMind.", "Google"),
        ("Metaphysics is no maker, nor is an apple.", None),
    ],
)
def test_the_first_maker_that_a_text_names_is_known_by_its_usual_name(text, maker):
    assert first_maker(text) == maker


def test_a_maker_in_any_spelling_has_one_usual_name_and_an_unknown_one_its_own():
    assert [usual_maker(name) for name in ("阿里巴巴", "open ai", "Bright Labs")] == [
        "Alibaba Cloud", "OpenAI", "Bright Labs",
    ]  # fmt: skip


def test_names_come_with_all_that_their_vendors_are_known_by():
    kin = family_of({"qwen"})
    assert {"qwen", "Qwen", "通义千问", "Alibaba Cloud", "阿里云"} <= kin
    assert "ChatGPT" not in kin
    assert family_of({"Nova"}) == {"Nova"}


def test_no_maker_is_listed_twice():
    makers = [maker.casefold() for vendor in VENDORS for maker in vendor.makers]
    assert len(makers) == len(set(makers))
