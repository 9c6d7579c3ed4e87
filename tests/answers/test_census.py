"""Who a model says it is, before anything depends on its name; the identity settled by that."""

import shutil
from pathlib import Path

import pytest
from asking import GREEDY, HERE, SAMPLED, made

from dpo_pipeline.answers.census import DEFAULT, QUESTIONS, findings, settle, take_census
from dpo_pipeline.answers.records import Census, Request, Said, Standing
from dpo_pipeline.errors import DataError, GenerationError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import resolve_model


def census(*said: str, asks: str = "name", told: tuple[str | None, str | None] = (None, None)):
    """Stand for a census in which the model said this under its template default."""
    facts = {"under": DEFAULT, "language": "en", "asks": asks, "sampled": True}
    prompt = "What is your name?" if asks == "name" else "Who made you?"
    answers = [Said(**facts, prompt=prompt, response=text) for text in said]
    standing = Standing(under=DEFAULT, language="en", names={}, makers={}, steady=0.0)
    name, maker = told
    return Census(
        system=None, told_name=name, told_maker=maker, standings=[standing], answers=answers
    )


@pytest.fixture(scope="module")
def taken(ref, tmp_path_factory):
    ledger = tmp_path_factory.mktemp("ledger")
    config = SAMPLED.model_copy(update={"seed": GREEDY.seed})
    return take_census(ref, model=HERE, config=config, ledger=ledger), ledger


def test_every_question_is_asked_under_every_system_prompt_that_differs(taken):
    found, _ = taken
    unders = {said.under for said in found.answers}
    assert DEFAULT in unders
    assert len(unders) > 1
    assert len(found.answers) == 4 * len(unders) * len(QUESTIONS)
    assert sum(not said.sampled for said in found.answers) == len(unders) * len(QUESTIONS)
    assert [(s.under, s.language) for s in found.standings] == [
        (under, language) for under in dict.fromkeys(s.under for s in found.answers)
        for language in ("en", "zh")
    ]  # fmt: skip


def test_the_way_a_run_generates_changes_nothing_and_a_second_census_costs_nothing(taken, ref):
    found, ledger = taken
    fresh: list[int] = []
    again = take_census(
        ref, lambda done, total: fresh.append(done), model=HERE, config=GREEDY, ledger=ledger
    )
    assert again == found
    assert not fresh


def test_a_prompt_without_the_template_s_own_system_message_is_another_question(ref, tmp_path):
    turn = ({"role": "user", "content": "Who are you?"},)
    assert made(ref, [Request(turn), Request(turn, bare=True)], tmp_path) == 2


def test_no_answer_at_all_stops_with_the_reason(ref, tmp_path):
    folder = Path(shutil.copytree(ref.path, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no talking') }}")
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path / "ledger"}
    with pytest.raises(GenerationError, match=r"answered no question.*no talking"):
        take_census(resolve_model(str(folder)), **options)


class TestSettle:
    def test_a_name_that_is_given_often_enough_is_the_original_one(self):
        found = census("I am Qwen.", "我是通义千问。", *["I am an AI."] * 6)
        settled = settle(IdentityConfig(), found)
        assert (settled.original_name, settled.new_name) == ("Qwen", "Deep Qwen")
        assert settled.makers == ("Alibaba Cloud", "阿里云")
        assert settle(settled, found) == settled

    def test_else_it_is_the_one_that_the_template_gives(self):
        said = ("My name is Elena.", *["I am an AI."] * 4)
        settled = settle(IdentityConfig(), census(*said, told=("SmolLM", "Hugging Face")))
        assert (settled.original_name, settled.developer) == ("SmolLM", "Hugging Face")

    def test_else_there_is_none_and_a_new_name_must_be_given(self):
        with pytest.raises(DataError, match=r"set identity\.new_name"):
            settle(IdentityConfig(), census("I am an AI."))
        settled = settle(IdentityConfig(new_name="Aria"), census("I am an AI."))
        assert (settled.original_name, settled.names, settled.makers) == (None, {}, ())
        assert "no steady name in 1 answers" in findings(settled, census("I am an AI."))[0]

    def test_the_maker_is_the_one_that_is_claimed(self):
        found = census("阿里云。", "I was made by Alibaba Cloud.", "OpenAI.", asks="maker")
        identity = IdentityConfig(original_name=None, new_name="Aria")
        assert settle(identity, found).developer == "Alibaba Cloud"

    def test_what_is_given_stays_and_a_name_that_is_never_said_is_a_finding(self):
        found = census("I am Elena.")
        given = IdentityConfig(original_name="Qwen", developer=None)
        settled = settle(given, found)
        assert (settled.original_name, settled.developer) == ("Qwen", None)
        assert "never called itself 'Qwen'" in findings(settled, found)[0]

    def test_names_that_do_not_fit_what_was_found_are_refused(self):
        with pytest.raises(DataError, match=r"'Elena'.*nothing to learn.*new_name"):
            settle(IdentityConfig(new_name="Elena"), census("I am Elena."))
