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
