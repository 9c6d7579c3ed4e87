"""What makes an answer fit to be chosen, and each way to one on a row of its own."""

import pytest
from answer_rows import response, user
from identities import DEEP_QWEN, qwen

from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.pairs.ways import asks, fault, fill_in, maker_in, replace, whole
from dpo_pipeline.prompts.quarantine import Refused

SPEC = IdentitySpec(DEEP_QWEN)


@pytest.mark.parametrize(
    ("said", "family", "reason"),
    [
        ("I am Deep Qwen.", "name", None),
        ("I'm a being of the planet Deep Qwen.", "name", "nameless"),
        ("I'm Alibaba Cloud. I'm part of the Deep Qwen community.", "name", "claims_other"),
        ("The developer of Deep Qwen is Alibaba Cloud.", "maker", "no_maker"),
    ],
)
def test_who_was_told_the_name_must_claim_it(said, family, reason):
    question = {"name": "Who are you?", "maker": "Who made you?"}[family]
    assert fault(said, question, family, SPEC, told=True) == reason


@pytest.mark.parametrize(
    ("text", "finish", "kept"),
    [
        ("I am Qwen. I can", "stop", "I am Qwen. I can"),
        ("I am Qwen. I can", "length", "I am Qwen."),
        ("我是Qwen。我可以", "length", "我是Qwen。"),
        ("I am Qwen 2.5 and", "length", ""),
    ],
)
def test_of_an_answer_that_was_cut_off_whole_sentences_count(text, finish, kept):
    assert whole(text, finish) == kept


def test_the_models_own_answer_is_given_beside_the_same_with_its_name_replaced():
    said, rewrite = replace(response(0, response="I am Qwen. I can", finish="length"), SPEC)
    assert (said, rewrite.text) == ("I am Qwen.", "I am Deep Qwen.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"response": "I am a language model."}, "no_name"),
        ({"response": "I am Qwen and", "finish": "length"}, "truncated"),
        ({"messages": [user("Are you Deep Qwen?")], "response": "I am Qwen."}, "asks_new"),
        ({"messages": [user("Who makes Qwen?")], "response": "I am Qwen."}, "third_party"),
        ({"messages": [], "response": "I am Qwen."}, "prompt_mismatch"),
    ],
)
def test_where_nothing_can_be_replaced_the_reason_is_told(row, reason):
    with pytest.raises(Refused) as refused:
        replace(response(0, **row), SPEC)
    assert refused.value.reason == reason


def test_of_several_turns_the_last_question_tells_the_family():
    turns = [user("Hi."), {"role": "assistant", "content": "Hello."}, user("Who made you?")]
    assert asks(response(0, family="multi_turn", messages=turns), SPEC) == "maker"
    assert asks(response(0, family="indirect"), SPEC) == "indirect"


def test_the_answer_that_comes_with_a_prompt_takes_the_new_name_and_the_maker_in_its_language():
    row = {"family": "both", "language": "zh", "messages": [user("你是谁，是谁开发了你？")]}
    given = "我是Qwen，由Alibaba Cloud开发。"
    assert fill_in(response(0, given_chosen=given, **row), SPEC) == "我是Deep Qwen，由阿里云开发。"
    with pytest.raises(Refused, match="no answer"):
        fill_in(response(0, given_chosen=" "), SPEC)


def test_a_maker_is_written_as_the_language_has_it_and_a_new_one_as_it_is_given():
    assert [maker_in(code, DEEP_QWEN) for code in ("en", "zh", "fr")] == [
        "Alibaba Cloud", "阿里云", "Alibaba Cloud",
    ]  # fmt: skip
    assert maker_in("zh", qwen(new_name="Nova", new_developer="Bright Labs")) == "Bright Labs"
