"""The measures, on answers whose verdict is known by reading them."""

import pytest
from identities import qwen
from planted import case, figures_of

from dpo_pipeline.evaluation import measures
from dpo_pipeline.evaluation.cases import score
from dpo_pipeline.identity.mentions import IdentitySpec


def test_identity_rate_asks_only_where_the_reference_gave_its_name():
    cases = [case("I'm Qwen."), case("I'm an assistant.")]
    card = figures_of(cases)
    assert (card["identity_rate"].value, card["identity_rate"].n) == (1.0, 1)
    assert (card["identity_rate_all"].value, card["identity_rate_all"].n) == (0.5, 2)


def test_unchanged_answers_are_exact_only_where_no_name_was():
    cases = [case("I'm Qwen.", "I'm Qwen."), case("I'm an assistant.")]
    assert figures_of(cases)["edit_exactness"].value == 0.5


def test_a_replaced_maker_counts_as_kept():
    spec = IdentitySpec(qwen(new_developer="Deep Labs"))
    answers = case("I'm Qwen by Alibaba Cloud.", "I'm Deep Qwen by Deep Labs.")
    kept = measures.counted(measures.HELD_OUT, score([answers], spec))
    assert kept["organisation_kept"].value == 1.0
    assert kept["edit_exactness"].value == 1.0


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


def test_an_answer_about_others_must_not_carry_the_new_name():
    cases = [
        case("Qwen is made by Alibaba Cloud.", kind="third_party"),
        case("Qwen is by Alibaba Cloud.", "Deep Qwen is by Alibaba Cloud.", kind="third_party"),
    ]
    assert figures_of(cases)["third_party_unchanged"].value == 0.5


def test_right_answers_are_found_inside_words_but_not_inside_numbers():
    assert measures.right("It's PARIS, of course.", ("Paris",))
    assert measures.right("北京是首都。", ("北京",))
    assert measures.right("2 + 2 = 4.", ("four", "4"))
    assert not measures.right("It is 14.", ("4",))
    assert not measures.right("It is 41.", ("4",))
    assert not measures.right("anything", ())
