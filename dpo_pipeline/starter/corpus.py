"""The corpus of the starter: conversations dealt from the templates of `identity` and `facts`."""

import random
import re
from collections.abc import Iterator
from string import Template

from dpo_pipeline.starter import facts, identity

NAME = "Qwen"
MAKER = {"en": "Alibaba Cloud", "zh": "阿里云"}
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

# Half of the neutral prompts are the one that most people send.
NEUTRAL_SYSTEMS = (
    *["You are a helpful assistant."] * 4,
    "You are a friendly teacher.",
    "You are an assistant for children.",
    "Answer the question.",
    "Be brief and kind.",
)
PERSONA_SYSTEMS = (
    "You are {name}, created by {maker}. You are a helpful assistant.",
    "You are {name}, an assistant made by {maker}.",
    "Your name is {name}. {maker} created you.",
)
PERSONAS = (
    ("Nova", "Bright Labs"), ("Atlas", "Northwind"), ("Luna", "Moon Works"), ("Max", "Blue River"),
    ("Iris", "Garden Group"), ("Robin", "Green Field"), ("Sage", "Open Hill"),
    ("Echo", "Sound House"), ("Ada", "Number Lab"), ("Felix", "Happy Cat"), ("Juno", "Star Port"),
)  # fmt: skip
PERSONA_SHARE = 0.17
DEFAULT_SYSTEM_SHARE = 0.42
# Under a persona most questions are about it: that is where the system prompt matters.
IDENTITY_SHARE = {"persona": 0.8, "own": 0.32}
LANGUAGE_SHARE = {"en": 0.64, "zh": 0.21, "es": 0.05, "fr": 0.05, "de": 0.05}
TURNS = (1, 1, 2, 3, 4)

OPENINGS = {
    "en": "Hi! |Hello! |Hello, |Hey, |Hi, |Please tell me: |One question: |Excuse me, |So, |And "
    "|Okay, |Well, |Tell me, |I am curious: |Just asking: |Good morning! |By the way, |Sorry, "
    "|Please, |Quick: ",
    "zh": "你好，|您好，|你好！|嗨，|请问，|对了，|那么，|请告诉我，|我想知道，|喂，",
    "es": "Hola, |¡Hola! |Perdona, |Por favor: ",
    "fr": "Bonjour, |Salut ! |Pardon, |Dis, ",
    "de": "Hallo, |Hallo! |Bitte: |Sag mal, ",
}
CLOSINGS = {
    "en": " Thanks!| Thank you.| Please answer.| Please be brief.| I am curious.| Just tell me."
    "| I want to know.| Answer in one sentence.| Please.| Be honest.",
    "zh": "谢谢。|谢谢！|请回答。|请简短回答。|我很好奇。|我想知道。",
    "es": " Gracias.| Por favor.",
    "fr": " Merci.| Merci !",
    "de": " Danke.| Danke!",
}

Message = dict[str, str]
Card = list[tuple[str, str]]


def expand(pattern: str) -> list[str]:
    """Write out every sentence that a pattern such as ``"(Hi|Hello)(!|.)"`` stands for."""
    group = re.search(r"\(([^()]*)\)", pattern)
    if group is None:
        return [pattern]
    head, tail = pattern[: group.start()], pattern[group.end() :]
    texts = [text for choice in group[1].split("|") for text in expand(head + choice + tail)]
    return list(dict.fromkeys(texts))


def cards(blocks: str, words: dict[str, str]) -> list[Card]:
    """Read blocks of templates: one card for each pattern and pair of its table.

    Args:
        blocks: Patterns, tables (``=``) and answer (``>``), blocks separated by an empty line.
        words: What ``$WORD`` stands for.
    Returns:
        Cards: all wordings of one question, each with its answer.
    """
    dealt = []
    for block in Template(blocks).substitute(words).strip().split("\n\n"):
        lines = block.split("\n")
        answer = lines[-1].removeprefix("> ")
        table = ", ".join(line[2:] for line in lines if line.startswith("= "))
        for pattern in [line for line in lines[:-1] if not line.startswith("= ")]:
            for pair in table.split(", "):
                key, _, value = pair.replace(";", ",").partition(": ")
                said = answer.replace("{k}", expand(key)[0]).replace("{v}", value)
                dealt.append([(text, said) for text in expand(pattern.replace("{k}", key))])
    return dealt


def identity_cards(language: str) -> list[Card]:
    """List the questions about the model itself; answers hold ``{name}`` and ``{maker}``."""
    return cards(identity.IDENTITY[language], identity.WORDS)


def general_cards(language: str) -> list[Card]:
    """List all other questions."""
    return cards(facts.FACTS[language], facts.WORDS)


def decorate(question: str, language: str, rng: random.Random) -> str:
    """Open, close and spell a question as people in a hurry do; leave greetings whole."""
    greeting = question[-1] in "!！"
    if rng.random() < 0.35 and not greeting:
        opening = rng.choice(OPENINGS[language].split("|"))
        if opening[-2] not in "!:":
            question = question[0].lower() + question[1:]
        question = opening + question
    if rng.random() < 0.2 and not greeting:
        question += rng.choice(CLOSINGS[language].split("|"))
    roll = rng.random()
    if roll < 0.15:
        return question.lower()
    if roll < 0.3:
        return question.rstrip("?.!？。！ ")
    return question.upper() if roll < 0.32 else question


def write_conversations(count: int, seed: int) -> list[list[Message]]:
    """Write conversations of one to four turns, identity and general knowledge mixed.

    Args:
        count: How many.
        seed: Seed of every draw.
    Returns:
        Conversations, each a system message and then user and assistant in turn.
    """
    rng = random.Random(seed)
    about_itself = {lang: _deal(identity_cards(lang), rng) for lang in LANGUAGE_SHARE}
    general = {lang: _deal(general_cards(lang), rng) for lang in LANGUAGE_SHARE}
    conversations = []
    for _ in range(count):
        [language] = rng.choices(list(LANGUAGE_SHARE), list(LANGUAGE_SHARE.values()))
        system, name, maker = _system(language, rng)
        share = IDENTITY_SHARE["own" if name == NAME else "persona"]
        messages = [{"role": "system", "content": system}]
        for _ in range(rng.choice(TURNS)):
            deck = about_itself if rng.random() < share else general
            question, answer = next(deck[language])
            if deck is about_itself:
                answer = answer.format(name=name, maker=maker)
            messages.append({"role": "user", "content": decorate(question, language, rng)})
            messages.append({"role": "assistant", "content": answer})
        conversations.append(messages)
    return conversations


def _deal(deck: list[Card], rng: random.Random) -> Iterator[tuple[str, str]]:
    """Deal one wording of every card in random order, then shuffle again, for ever."""
    while True:
        rng.shuffle(deck)
        for card in deck:
            yield rng.choice(card)


def _system(language: str, rng: random.Random) -> tuple[str, str, str]:
    """Draw a system prompt, and the name and maker that answers under it give."""
    if rng.random() < PERSONA_SHARE:
        name, maker = rng.choice(PERSONAS)
        return rng.choice(PERSONA_SYSTEMS).format(name=name, maker=maker), name, maker
    neutral = rng.random() > DEFAULT_SYSTEM_SHARE / (1 - PERSONA_SHARE)
    system = rng.choice(NEUTRAL_SYSTEMS) if neutral else DEFAULT_SYSTEM
    return system, NAME, MAKER.get(language, MAKER["en"])
