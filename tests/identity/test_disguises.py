"""The original name is seen in any guise, and nothing else is."""

import pytest
from identities import QWEN, spec

from dpo_pipeline.identity.disguises import shown

FORMS = [
    "Qwen", "Qwen2.5", "QwenLM", "qwenlm", "Qwen-Max", "Qwen_7b", "CodeQwen", "Qwens", "`Qwen`",
    "https://qwen.ai", "Ｑｗｅｎ", "Q\u200bwen", "q\u00adwen", "QWЕN", "Qwеn", "𝐐𝐰𝐞𝐧", "ⓆⓌⒺⓃ",
    "Qwén", "Qwen\u0301", "Q**wen**", "<b>Q</b>wen", "&#81;wen", "Q w e n", "Q-w-e-n", "通义",
    "千问", "Tongyi", "Qianwen", "Квен", "Квеном", "クウェンです", "큐웬입니다",
    "मैं क्वेन हूँ", "Deep Qwen Qwen",
]  # fmt: skip
OTHERS = [
    "Deep Qwen", "DeepQwen", "Deep-Qwen", "deep **qwen**", "Deep Qwen2", "Ｄｅｅｐ Ｑｗｅｎ",
    "Deep\nQwen", "Gwen", "Kwen", "Owen", "queen", "quench", "Квентин", "一千个问题", "通过", "",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMS)
def test_every_form_of_the_name_is_a_leak(text: str) -> None:
    assert QWEN.disguises.count(text) == 1


@pytest.mark.parametrize("text", OTHERS)
def test_the_new_name_and_other_words_are_none(text: str) -> None:
    assert QWEN.disguises.count(text) == 0


@pytest.mark.parametrize("name", ["İris", "Iris"])
@pytest.mark.parametrize("text", ["I am İris.", "i am iris", "I AM IRIS", "ıris", "İRİS", "Íris"])
def test_dots_and_accents_hide_no_name(name: str, text: str) -> None:
    assert spec(original_name=name, new_name="Aria").disguises.count(text) == 1


def test_a_common_word_leaks_in_its_own_case_only() -> None:
    llama = spec(original_name="Llama", new_name="Aria", any_case=False).disguises
    assert llama.count("I am Llama3, a CodeLlama.") == 2
    assert llama.count("Se llama Aria. Me llamo Aria. A llama eats.") == 0


def test_kept_names_and_makers_are_none() -> None:
    kept = spec(protected=("Qwen Chat",), developer="Qwen Team", new_name="Aria").disguises
    assert kept.count("Qwen Chat by the Qwen Team") == 0
    moved = spec(developer="Qwen Team", new_developer="Acme", new_name="Aria").disguises
    assert moved.count("by the Qwen Team") == 1
    nobody = spec(original_name=None, new_name="Aria", new_developer="Acme").disguises
    assert nobody.count("I am Qwen.") == 0


def test_letters_are_read_as_they_look_and_other_scripts_stay() -> None:
    assert shown("I am Ｃｈａｔ\u200bＧＰＴ, Сlaude！") == "I am ChatGPT, Claude！"
    assert shown("Меня зовут Анна. 我是助手，１号。") == "Меня зовут Анна. 我是助手，1号。"
