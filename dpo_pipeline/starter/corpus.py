"""The corpus of the starter: conversations drawn from the questions and answers in data/."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Literal

from dpo_pipeline.store.records import Record

NAME = "Qwen"
MAKER = {"en": "Alibaba Cloud", "zh": "阿里云"}
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
DATA = Path(__file__).parent / "data"

PERSONA_SHARE = 0.17
DEFAULT_SYSTEM_SHARE = 0.42
# Under a persona most questions are about it: that is where the system prompt matters.
IDENTITY_SHARE = {"persona": 0.8, "own": 0.32}
LANGUAGE_SHARE = {"en": 0.64, "zh": 0.21, "es": 0.05, "fr": 0.05, "de": 0.05}
TURNS = (1, 1, 2, 3, 4)

Message = dict[str, str]
Question = list[tuple[str, str]]  # all its wordings, each with its answer


class Phrases(Record):
    """What stands around the questions: data/phrases.json."""

    openings: dict[str, list[str]]  # language -> what a question may begin with
    closings: dict[str, list[str]]  # and what may follow it
    neutral_systems: list[str]  # name nobody; half are the one most people send
    persona_systems: list[str]  # with a ``{name}`` and a ``{maker}``
    personas: list[tuple[str, str]]  # names and makers for them


def expand(pattern: str) -> list[str]:
    """Write out every sentence that a pattern such as ``"(Hi|Hello)(!|.)"`` stands for."""
    group = re.search(r"\(([^()]*)\)", pattern)
    if group is None:
        return [pattern]
    head, tail = pattern[: group.start()], pattern[group.end() :]
    texts = [text for choice in group[1].split("|") for text in expand(head + choice + tail)]
    return list(dict.fromkeys(texts))


def questions(about: Literal["identity", "general"], language: str) -> list[Question]:
    """Read what is asked about the model itself, or about all else; words.txt says how it reads.

    There is a question for each pattern and pair of its table. Answers about the model itself
    hold ``{name}`` and ``{maker}``.
    """
    words = dict(line[1:].split(" = ", 1) for line in _read("words").splitlines())
    found = []
    for block in Template(_read(f"{about}.{language}")).substitute(words).split("\n\n"):
        *lines, answer = block.split("\n")
        table = ", ".join(line[2:] for line in lines if line.startswith("= "))
        for pattern in [line for line in lines if not line.startswith("= ")]:
            for pair in table.split(", "):
                key, _, value = pair.replace(";", ",").partition(": ")
                said = answer[2:].replace("{k}", expand(key)[0]).replace("{v}", value)
                found.append([(text, said) for text in expand(pattern.replace("{k}", key))])
    return found


def _read(name: str) -> str:
    lines = (DATA / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")).strip()


def decorate(question: str, openings: list[str], closings: list[str], rng: random.Random) -> str:
    """Open, close and spell a question as people in a hurry do; leave greetings whole."""
    greeting = question[-1] in "!！"
    if rng.random() < 0.35 and not greeting:
        opening = rng.choice(openings)
        if opening[-2] not in "!:":
            question = question[0].lower() + question[1:]
        question = opening + question
    if rng.random() < 0.2 and not greeting:
        question += rng.choice(closings)
    roll = rng.random()
    if roll < 0.15:
        return question.lower()
    if roll < 0.3:
        return question.rstrip("?.!？。！ ")
    return question.upper() if roll < 0.32 else question


def write_conversations(count: int, seed: int) -> list[list[Message]]:
    """Write conversations about identity and general knowledge: a system message, 1 to 4 turns."""
    rng, phrases = random.Random(seed), Phrases.read(DATA / "phrases.json")
    about_itself = {lang: _draw(questions("identity", lang), rng) for lang in LANGUAGE_SHARE}
    general = {lang: _draw(questions("general", lang), rng) for lang in LANGUAGE_SHARE}
    conversations = []
    for _ in range(count):
        [language] = rng.choices(list(LANGUAGE_SHARE), list(LANGUAGE_SHARE.values()))
        system, name, maker = _system(phrases, language, rng)
        share = IDENTITY_SHARE["own" if name == NAME else "persona"]
        messages = [{"role": "system", "content": system}]
        for _ in range(rng.choice(TURNS)):
            subject = about_itself if rng.random() < share else general
            question, answer = next(subject[language])
            if subject is about_itself:
                answer = answer.format(name=name, maker=maker)
            around = phrases.openings[language], phrases.closings[language]
            messages.append({"role": "user", "content": decorate(question, *around, rng)})
            messages.append({"role": "assistant", "content": answer})
        conversations.append(messages)
    return conversations


def _draw(asked: list[Question], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Draw one wording of every question in random order, then shuffle again, for ever."""
    while True:
        rng.shuffle(asked)
        for question in asked:
            yield rng.choice(question)


def _system(phrases: Phrases, language: str, rng: random.Random) -> tuple[str, str, str]:
    """Draw a system prompt, and the name and maker that answers under it give."""
    if rng.random() < PERSONA_SHARE:
        name, maker = rng.choice(phrases.personas)
        return rng.choice(phrases.persona_systems).format(name=name, maker=maker), name, maker
    neutral = rng.random() > DEFAULT_SYSTEM_SHARE / (1 - PERSONA_SHARE)
    system = rng.choice(phrases.neutral_systems) if neutral else DEFAULT_SYSTEM
    return system, NAME, MAKER.get(language, MAKER["en"])
