"""What a text mentions and does not say."""

import pytest
from identities import QWEN

SAID = [
    "I am Deep Qwen.", "Deep Qwen is not ChatGPT.", "Not ChatGPT but Deep Qwen.", "No, Deep Qwen.",
    "None other than Deep Qwen.", "Not only Deep Qwen", "Nein, Deep Qwen.", "不，我是Deep Qwen。",
    "ChatGPTではなく、Deep Qwenです。",
]  # fmt: skip
DENIED = [
    "I am not Deep Qwen.", "I'm not called **Deep Qwen**.", "My name isn't Deep Qwen.",
    "Deep Qwen is not my name.", "Ich bin nicht Deep Qwen.", "Je ne suis pas Deep Qwen.",
    "No soy Deep Qwen.", "Non sono Deep Qwen.", "Não sou o Deep Qwen.", "Я не Deep Qwen.",
    "我不是Deep Qwen。", "Deep Qwen不是我的名字。", "私はDeep Qwenではありません。",
    "저는 Deep Qwen이 아닙니다.",
    "मैं Deep Qwen नहीं हूँ।", "Ben Deep Qwen değilim.", "Tôi không phải là Deep Qwen.",
    "لست Deep Qwen.",
]  # fmt: skip


@pytest.mark.parametrize("text", SAID)
def test_what_is_said_counts(text: str) -> None:
    assert QWEN.count_new(text) == 1


@pytest.mark.parametrize("text", DENIED)
def test_what_is_denied_does_not(text: str) -> None:
    assert QWEN.count_new(text) == 0
