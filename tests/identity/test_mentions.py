"""Mentions of a name, and of somebody else."""

import pytest
from identities import QWEN, spec


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
