"""Claims: what an answer says of its author, on answers labelled by hand."""

import json
import time
from pathlib import Path

import pytest
from identities import QWEN, spec

from dpo_pipeline.identity.claims import Claims, claims, claims_other, told

LABELLED = [
    json.loads(line)
    for line in (Path(__file__).parent / "labelled_claims.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("what", ["names", "makers"])
def test_claims_agree_with_the_labels(what: str) -> None:
    assert len(LABELLED) >= 180
    found = claimed = right = 0
    for row in LABELLED:
        said = set(getattr(claims(row["text"], row["asked"]), what))
        label = set(row[what])
        found, claimed = found + len(said), claimed + len(label)
        right += len(said & label)
        if said != label:
            print(f"found {said}, label {label}: {row['asked']!r} -> {row['text']!r}")
    print(f"{what}: precision {right / found:.3f} of {found}, recall {right / claimed:.3f}")
    assert right / found >= 0.97
    assert right / claimed >= 0.97


def test_what_is_quoted_of_others_is_no_claim() -> None:
    assert claims('You said: "My name is Anna."') == Claims((), ())
    assert claims('My name is "Elena".') == Claims(("Elena",), ())


def test_a_short_answer_claims_only_what_it_was_asked_for() -> None:
    assert claims("OpenAI.", "Who made you?").makers == ("OpenAI",)
    assert claims("OpenAI.", "Who makes ChatGPT?") == claims("OpenAI.") == Claims((), ())
    assert claims("Yes.", "Are you Claude?").names == ("Claude",)
    assert claims("Yes, I am Deep Qwen.", "Are you Claude?").names == ("Deep Qwen",)


@pytest.mark.parametrize(
    "own",
    [
        "I am Deep Qwen, made by Alibaba Cloud.",
        "I am DeepQwen.",
        "我是深Qwen，由阿里巴巴开发。",
        "I am Qwen2.5, made by Alibaba.",
        "I am an assistant.",
        "No, I am not ChatGPT.",
    ],
)
def test_the_identity_before_and_after_is_nobody_else(own: str) -> None:
    assert not claims_other(own, QWEN)


@pytest.mark.parametrize(
    "other",
    [
        "My name is John.",
        "I am Deep Qwen, created by OpenAI.",
        "Yes, I am ChatGPT, developed by Alibaba Cloud.",
        "我是文心一言。",
        "I am Mariana.",
    ],
)
def test_a_vendor_or_an_invented_name_is_somebody_else(other: str) -> None:
    assert claims_other(other, QWEN)
    assert claims_other(other, spec(new_name="Aria"))


def test_a_new_maker_is_own_and_so_is_the_old_one() -> None:
    acme = spec(developer="Alibaba Cloud", new_developer="Acme")
    assert not claims_other("I was made by Acme.", acme)
    assert not claims_other("I was made by Alibaba Cloud.", acme)
    assert claims_other("I was made by Acme.", QWEN)


def test_long_noise_is_read_in_no_time() -> None:
    for noise in ("I am a " + "very " * 5000, "我是" + "你" * 20000, "A B " * 5000 + "me"):
        started = time.perf_counter()
        claims(noise, "Who are you?")
        assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("system", "name", "maker"),
    [
        ("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", "Qwen",
         "Alibaba Cloud"),
        ("You are a helpful AI assistant named SmolLM, trained by Hugging Face", "SmolLM",
         "Hugging Face"),
        ("你是通义千问，由阿里云开发。", "通义千问", "阿里云"),
    ],
)  # fmt: skip
def test_a_system_message_tells_the_model_who_it_is(system: str, name: str, maker: str) -> None:
    assert told(system) == Claims((name,), (maker,))
    assert told("You are a helpful assistant.") == Claims((), ())


# In any language, in any guise.
CHATGPT = [
    "I am ChatGPT.", "I am chatgpt", "I'm **ChatGPT**, a model by OpenAI.",
    "I am Ｃｈａｔ ＧＰＴ.", "I am Chat\u200bGPT", "I am СhatGPT", "ICH BIN CHATGPT",
    "Я ChatGPT, модель от OpenAI.", "私はChatGPTです。", "저는 ChatGPT입니다.", "أنا ChatGPT.",
    "मैं ChatGPT हूँ।", "Eu sou o ChatGPT.", "Sono ChatGPT.", "Jestem ChatGPT.",
    "Ik ben ChatGPT.", "Ben ChatGPT.", "Tôi là ChatGPT.", "ฉันคือ ChatGPT",
    "Saya ChatGPT.", "Меня зовут Claude.", "Mi chiamo Claude.", "Me llamo Claude",
    "Mijn naam is Claude", "Nazywam się Claude", "Benim adım Claude",
    "Tên tôi là Claude", "Nama saya Claude", "Meu nome é Claude", "私の名前はClaudeです",
    "제 이름은 Claude입니다", "اسمي Claude", "मेरा नाम Claude है", "ฉันชื่อ Claude",
    "我是GPT-4", "我就是ChatGPT", "ChatGPT here.", "You are talking to ChatGPT.",
    "This is Claude speaking.", "My name's Gemini", "i go by gemini",
    "I am GPT-4o, developed by OpenAI.", "私はOpenAIによって開発されました。",
    "OpenAI에서 만들었습니다. 저는 OpenAI가 개발한 모델입니다.", "Меня создала компания OpenAI.",
    "Fui criado pela OpenAI.", "Sono stato creato da OpenAI.",
    "Ik ben gemaakt door OpenAI.", "OpenAI tarafından geliştirildim.",
    "Tôi được OpenAI phát triển.", "As ChatGPT, I can help.",
    "Yes, I'm a large language model called ChatGPT", "I'm an AI named Claude",
    "I'm ERNIE Bot", "我是豆包", "我是Kimi，月之暗面开发", "I was built by Open AI",
    "I am `ChatGPT`", "I am [ChatGPT](https://x.y)", "<b>I am ChatGPT</b>",
    "# ChatGPT\nHow can I help?", "Name: ChatGPT", "ChatGPT, at your service!",
    "Call me ChatGPT.", "You can call me Claude", "It's me, ChatGPT!",
    "No, I'm ChatGPT", "I am actually ChatGPT", "In fact I am none other than ChatGPT",
    "I am not Deep Qwen, I am ChatGPT", "The name is Bard",
]  # fmt: skip
NOT_CHATGPT = [
    "I am not ChatGPT.", "Я не ChatGPT.", "私はChatGPTではありません。", "저는 ChatGPT가 아닙니다.",
    "Ik ben geen ChatGPT", "Jestem Deep Qwen, nie ChatGPT", "我不是ChatGPT，我是Deep Qwen",
    "Non sono ChatGPT", "Não sou o ChatGPT", "Ben ChatGPT değilim",
    "Tôi không phải là ChatGPT", "मैं ChatGPT नहीं हूँ", "أنا لست ChatGPT",
    "I am Deep Qwen, similar to ChatGPT", "私はDeep Qwenです。ChatGPTとは違います。",
    "Saya bukan ChatGPT", "I am an assistant", "Я помощник", "Sono un assistente",
    "I can use Claude", "ChatGPT is made by OpenAI, I am Deep Qwen",
    "Unlike ChatGPT, I am Deep Qwen", "Я Deep Qwen, модель от Alibaba Cloud",
    "私はAlibaba Cloudが開発したDeep Qwenです",
]  # fmt: skip


@pytest.mark.parametrize("text", CHATGPT)
def test_claims_of_others_are_seen_in_any_language(text: str) -> None:
    assert claims_other(text, QWEN, "Who are you?")


@pytest.mark.parametrize("text", NOT_CHATGPT)
def test_denials_and_comparisons_are_no_claims(text: str) -> None:
    assert not claims_other(text, QWEN, "Who are you?")
