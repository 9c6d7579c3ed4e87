"""The prompt files that ship: what is trained on, tuned on and measured never meet."""

import re
from collections import Counter, defaultdict

import pytest
from shipped import general_rows, identity_rows, question

from dpo_pipeline.evaluation.correctness import right
from dpo_pipeline.prompts.general import CHECKED, read_general
from dpo_pipeline.prompts.retention import IDENTITY, read_retention, read_tuning
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.split import normalise, same_wording

# Whom and what the measured questions are about; training and tuning never mention them.
HELD = {
    "third_party": "Siri|Alexa|Gemini|GPT-4|Copilot|Grok|Mistral|Bixby|Ernie|DALL-E|Qwen|"
    "iPhone|iPad|Android|Windows|PlayStation|Photoshop|Facebook|Walkman|"
    "Galaxy|Gmail|Super Mario|Rust|文心一言|微信",
    "user_name": "Anna|Robert|Keiko|Linda|Hannah|Priya|Diego|Olga|Samuel|Yusuf|Biscuit|"
    "Amelie|Copper Kettle|Zed|Henrik|Isabel|Sparky|Gregory|Chloe|Theodora|"
    "安娜|王强|陈静|小虎|刘名洋|刘洋|阿杰|思思|清风阁|消防员|徐丹",
    "contrast": "Tintin|Moby-Dick|Darwin|wind turbines|Gustav|my bank|picnic|Nora|cake|"
    "Simpsons|Corolla|Fortnite|Seabiscuit|Golf|dentist|AI engineer|trademark|"
    "doctor for animals|pandas|Gulliver|Rubik|Stradivarius|cathedral of our|"
    "Poirot|Quixote|Harper|headteacher|鲁迅|小李|丰田|蛋糕|阿Q|诺拉|哈珀|丁丁|"
    "魔方|野餐|牙医|辛普森|堂吉诃德",
}


def asked(prompts):
    return [prompt.messages[-1]["content"] for prompt in prompts]


@pytest.fixture(scope="module")
def files():
    return {
        "identity": [question(row) for row in identity_rows()],
        "retention": asked(read_retention(None)),
        "tuning": asked(read_tuning()),
        "general": [q.prompt for q in read_general(None)],
    }


def test_no_wording_is_in_two_files(files):
    rows = [(name, prompt) for name, prompts in files.items() for prompt in prompts]
    texts = [normalise(prompt) for _, prompt in rows]
    wordings = defaultdict(set)
    for row, wording in zip(rows, same_wording(texts, PromptsConfig().near_duplicate), strict=True):
        wordings[wording].add(row)
    shared = [w for w in wordings.values() if len({name for name, _ in w}) > 1]
    assert shared == []


def test_nothing_that_is_measured_is_mentioned_in_training_or_tuning():
    trained = [
        " ".join([prompt.system or "", *(turn["content"] for turn in prompt.messages)])
        for prompt in read_retention(None) + read_tuning()
    ]
    held = re.compile(
        "|".join(
            rf"\b(?:{name})(?![a-z])" if name.isascii() else name
            for names in HELD.values()
            for name in names.split("|")
        )
    )
    assert [text for text in trained if held.search(text)] == []


@pytest.mark.parametrize("kind", HELD)
def test_every_measured_question_is_about_somebody_held(kind):
    rows = [row["prompt"] for row in general_rows() if row["kind"] == kind]
    assert [prompt for prompt in rows if not re.search(HELD[kind], prompt)] == []


def test_retention_has_its_families_and_languages():
    prompts = read_retention(None)
    assert len({(p.system, *(m["content"] for m in p.messages)) for p in prompts}) == len(prompts)
    families = Counter(prompt.family for prompt in prompts)
    assert len(prompts) >= 2300
    assert min(families.values()) >= 50
    languages = Counter(prompt.language for prompt in prompts)
    assert set(languages) == {"en", "zh", "de", "fr", "es"}
    assert 0.25 <= languages["zh"] / len(prompts) <= 0.4


def test_no_retention_prompt_speaks_of_the_models_that_are_renamed():
    texts = asked(read_retention(None)) + [p.system or "" for p in read_retention(None)]
    renamed = re.compile("Qwen|通义|千问|SmolLM|Hugging ?Face|Alibaba Cloud|阿里云", re.I)
    assert [text for text in texts if renamed.search(text)] == []


def test_tuning_asks_for_the_identity_and_for_what_stays():
    prompts = read_tuning()
    families = Counter(prompt.family in IDENTITY for prompt in prompts)
    assert families[True] == 48
    assert families[False] >= 60
    assert {p.family for p in prompts} >= set(IDENTITY)


def test_measured_questions_are_enough_of_each_kind():
    kinds = Counter(row["kind"] for row in general_rows())
    least = {"general": 170, "third_party": 40, "contrast": 40, "instruction": 60}
    least |= {"greeting": 30, "user_name": 30}
    assert all(kinds[kind] >= n for kind, n in least.items())
    zh = [r for r in general_rows() if (r["kind"], r["language"]) == ("general", "zh")]
    assert len(zh) / kinds["general"] >= 0.28


def test_an_accepted_answer_is_there_and_no_echo_of_the_question():
    for row in general_rows():
        assert bool(row["answers"]) or row["kind"] not in (*CHECKED, "third_party")
        assert all(answer.strip() == answer != "" for answer in row["answers"])
        if row["kind"] in ("general", "third_party"):
            assert not right(row["prompt"], row["answers"]), row
