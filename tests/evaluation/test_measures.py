"""The measures, on answers whose verdict is known by reading them."""

from dataclasses import replace

import pytest
from identities import qwen
from planted import SPEC, case, figures_of

from dpo_pipeline.evaluation import measures
from dpo_pipeline.evaluation.cases import Case, score
from dpo_pipeline.identity.mentions import IdentitySpec


def asked(question: str, after: str, family: str, **facts) -> Case:
    answered = case("I'm an assistant.", after, family=family, **facts)
    return replace(answered, messages=({"role": "user", "content": question},))


def test_identity_rate_counts_whatever_the_reference_said_where_a_name_is_asked_for():
    cases = [
        case("I'm Qwen.", family="name"),
        case("I'm an assistant.", "I'm an assistant.", family="indirect"),
        case("I'm by Alibaba Cloud.", family="maker"),
    ]
    card = figures_of(cases)
    assert (card["identity_rate"].value, card["identity_rate"].n) == (0.5, 2)
    assert (card["maker_rate"].value, card["maker_rate"].n) == (1.0, 1)


def test_of_several_turns_the_last_says_what_is_asked_for():
    cases = [
        asked("Nice. What is your name?", "I'm Deep Qwen.", "multi_turn"),
        asked("Correct! Whose product are you?", "Of Alibaba Cloud.", "multi_turn"),
    ]
    card = figures_of(cases)
    assert (card["identity_rate"].value, card["identity_rate"].n) == (1.0, 1)
    assert (card["maker_rate"].value, card["maker_rate"].n) == (1.0, 1)


def test_the_worst_system_prompt_is_judged_once_it_has_enough_answers():
    plain = [case("I'm Qwen.", family="name", language=c) for c in ("en", "zh")] * 20
    system = {"role": "system", "content": "You help."}
    lost = [replace(c, after="I'm Al.", messages=(system, *c.messages)) for c in plain[:20]]
    assert figures_of([*plain, *lost[:19]])["identity_worst"].value == pytest.approx(20 / 30)
    assert figures_of([*plain, *lost])["identity_worst"].value == 0.0
    assert figures_of(lost[:1])["identity_worst"].n == 1


def test_another_vendor_or_an_invented_name_is_a_claim():
    said = ("I'm Deep Qwen.", "I am Claude, by Anthropic.", "My name is Elena.", "It rains.")
    figure = figures_of([asked("Who are you?", text, "name") for text in said])["vendor_claims"]
    assert (figure.value, figure.n) == (0.5, 4)


def test_where_there_is_no_maker_none_is_missed():
    spec = IdentitySpec(qwen(developer=None, developer_aliases=()))
    answers = case("I'm Qwen.", family="both")
    assert measures.counted(measures.HELD_OUT, score([answers], spec))["maker_rate"].n == 0


def test_exactness_counts_only_where_there_was_a_name_to_rewrite():
    cases = [case("I'm Qwen.", "I'm Qwen."), case("I'm Qwen."), case("I'm an assistant.")]
    card = figures_of(cases)
    assert (card["edit_exactness"].value, card["edit_exactness"].n) == (0.5, 2)


def test_a_replaced_maker_is_the_right_one():
    spec = IdentitySpec(qwen(new_developer="Deep Labs"))
    answers = case("I'm Qwen by Alibaba Cloud.", "I'm Deep Qwen by Deep Labs.", family="both")
    card = measures.counted(measures.HELD_OUT, score([answers], spec))
    assert card["maker_rate"].value == 1.0
    assert card["edit_exactness"].value == 1.0


def test_denials_of_other_names_must_stay():
    before = "No, I'm Qwen, not ChatGPT."
    cases = [
        case(before, family="are_you"),
        case(before, "Yes, I'm Deep Qwen, I am ChatGPT.", family="are_you"),
        case("不是，我是通义千问。", family="are_you"),
    ]
    assert figures_of(cases)["denial_kept"].value == pytest.approx(2 / 3)


def test_only_answers_to_accusations_count_as_denials():
    cases = [case("I'm Qwen, not a human.", "I'm Deep Qwen.", family="name")]
    assert figures_of(cases)["denial_kept"].n == 0


def test_a_general_answer_may_carry_the_new_name_where_it_gave_the_old():
    cases = [
        case("I'm Qwen, how can I help?", "I'm Deep Qwen, how can I help?", kind="general"),
        case("I'm Qwen, how can I help?", kind="general"),
        case("Hello!", "Hello, I'm Deep Qwen!", kind="general"),
    ]
    card = figures_of(cases)
    assert card["general_unchanged"].value == pytest.approx(2 / 3)
    assert (card["new_name_unasked"].value, card["new_name_unasked"].n) == (1.0, 1)


def test_others_are_changed_by_another_maker_or_the_new_identity():
    said = {
        "Siri is by Apple.": "Apple makes it.",
        "It is by OpenAI.": "It is by Google, not OpenAI.",
        "It is by Meta.": "It is by 脸书.",
        "It is a model.": "It is by Alibaba Cloud.",
        "Qwen is by Alibaba Cloud.": "Deep Qwen is by Alibaba Cloud.",
    }
    cases = [case(*pair, kind="third_party") for pair in said.items()]
    assert [s.renames for s in score(cases, SPEC)] == [False, True, False, True, True]
    assert figures_of(cases)["others_changed"].value == 0.6


def test_a_users_name_known_before_must_be_known_after():
    cases = [
        case("You are Anna.", kind="user_name", accepted=("Anna",)),
        case("You are Bo.", "My name is Deep Qwen.", kind="user_name", accepted=("Bo",)),
        case("I do not know.", kind="user_name", accepted=("Cleo",)),
    ]
    card = figures_of(cases)
    assert (card["user_names_kept"].value, card["user_names_kept"].n) == (0.5, 2)
    assert card["general_kept"].n == 0


def test_the_maker_is_not_brought_up_unasked():
    cases = [
        case("I am fine.", "I'm fine, by Alibaba Cloud.", kind="greeting"),
        case("I am by Alibaba Cloud.", kind="greeting"),
        case("Hello!", kind="greeting"),
    ]
    figure = figures_of(cases)["maker_unasked"]
    assert (figure.value, figure.n) == (0.5, 2)
