"""Shapes of a row: which columns tell it, and the turns of the conversation that it holds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.rewriting import fill
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.prompts.quarantine import Refused, Unreadable, checked_text
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.split import normalise, read_split

# Shape -> the columns that tell it, all of them; in the order in which they are tried.
SHAPES = {
    "preference": ("chosen", "rejected"),
    "conversations": ("conversations",),
    "messages": ("messages",),
    "alpaca": ("instruction",),
    "query-response": ("query",),
    "prompt": ("prompt",),
}
_OWN = ("family", "language", "split")  # what a row may say of itself
# Names that prompts.columns may map.
_COLUMNS = {
    *(name for columns in SHAPES.values() for name in columns),
    *("from", "value", "history", "input", "output", "response", "completion"),
    *_OWN,
}
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "bing", "chatgpt", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Question:
    """What a row asks."""

    messages: list[Message]  # up to the last of the user, without system messages
    questions: list[str]  # texts of the user's turns, normalised
    given: str | None  # the answer that the row gives, if it can be used
    dropped: bool  # it gives one that cannot
    split: str | None  # the side that the row names, if it does
    own: Mapping[str, object]  # family and language that the row names, of whatever type


def find_shape(rows: Iterable[object], config: PromptsConfig, where: str) -> str:
    """Recognise the shape whose columns most of the rows fill.

    Raises:
        DataError: No row fills the columns of any shape, or of the configured one.
    """
    rows = list(rows)
    if rows and all(isinstance(row, Unreadable) for row in rows):
        first = next(row for row in rows if isinstance(row, Unreadable))
        raise DataError(f"{where}: none of its first {len(rows)} rows can be read: {first.detail}")
    told = [row for row in rows if isinstance(row, Mapping)]
    filled = [{name for name in row if row[name] is not None} for row in told]
    found = sorted({str(name) for names in filled for name in names})
    if unknown := sorted(config.columns.keys() - _COLUMNS):
        known = nearest(unknown, sorted(_COLUMNS))
        raise DataError(f"prompts.columns maps {unknown[0]!r}, which nothing reads; known: {known}")
    # Two of the names lie inside the turns of a conversation.
    mapped = {have for want, have in config.columns.items() if want not in ("from", "value")}
    if missing := sorted(mapped - {name for row in told for name in row}):
        raise DataError(
            f"{where} lacks {missing} of prompts.columns; it has {nearest(missing, found)}"
        )
    asked = {s: {config.columns.get(n, n) for n in names} for s, names in SHAPES.items()}
    fits = {shape: sum(map(names.issubset, filled)) for shape, names in asked.items()}
    # The first of equals.
    shape = max(fits, key=lambda name: fits[name]) if config.shape == "auto" else config.shape
    if not fits[shape]:
        shapes = list(SHAPES) if config.shape == "auto" else [shape]
        expected = [name for shape in shapes for name in SHAPES[shape]]
        listed = " or ".join("+".join(SHAPES[shape]) for shape in shapes)
        example = json.dumps({expected[-1]: found[0] if found else "text"}, ensure_ascii=False)
        raise DataError(
            f"{where}: shape {config.shape} expects columns {listed}, found "
            f"{nearest(expected, found)} with values; map them with prompts.columns, e.g. "
            f"{example}, or set prompts.shape"
        )
    if shape == "preference" and config.shape == "auto":
        raise DataError(
            f"{where} holds chosen and rejected answers: it is a preference dataset, which "
            "flows/preference.py trains on; set prompts.shape to read its prompts only"
        )
    return shape


def nearest(wanted: Iterable[str], found: Sequence[str]) -> str:
    """List what was found, and what of it may be a misspelling of what was wanted."""
    near = [(name, close[0]) for name in wanted if (close := get_close_matches(name, found, 1))]
    hints = [f"; {have!r} is close to {want!r}" for want, have in near if want != have]
    return f"{list(found)}{''.join(hints[:1])}"


def read_question(
    row: object, shape: str, config: PromptsConfig, identity: IdentityConfig
) -> Question:
    """Read a row, its placeholders filled.

    Raises:
        Refused: The row holds no prompt.
    """
    if isinstance(row, Unreadable):
        raise Refused(row.reason, row.detail)
    if not isinstance(row, Mapping):
        raise Refused("wrong_type", f"a row is an object, found {type(row).__name__}")
    turns = _turns(row, shape, config.columns)
    asked = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
    if not asked:
        raise Refused("no_human_turn", f"roles found: {[turn['role'] for turn in turns]}")
    first, last = asked[-1 if config.context == "last" else 0], asked[-1]
    after = turns[last + 1 : last + 2]
    given = after[0]["content"] if after and after[0]["role"] == "assistant" else ""
    turns = [turn for turn in turns[first : last + 1] if turn["role"] != "system"]
    try:
        turns = [{**m, "content": checked_text(fill(m["content"], identity))} for m in turns]
    except DataError as error:
        raise Refused("placeholder", str(error)) from error
    if blank := [i for i, turn in enumerate(turns) if not turn["content"].strip()]:
        raise Refused("empty_prompt", f"turn {blank[0]} of {len(turns)} is blank")
    own = {name: row.get(config.columns.get(name, name)) for name in _OWN}
    try:
        usable = checked_text(fill(given, identity, after=True)) if given.strip() else None
    except (DataError, Refused):
        usable = None
    questions = [normalise(turn["content"]) for turn in turns if turn["role"] == "user"]
    dropped = bool(given.strip() and not usable)
    return Question(turns, questions, usable, dropped, read_split(own["split"]), own)


def _turns(row: Mapping[str, object], shape: str, columns: Mapping[str, str]) -> list[Message]:
    """Return all turns of a row; the answer it gives, if any, comes last."""

    def cell(name: str) -> object:
        return row.get(columns.get(name, name))

    def turn(role: str, name: str) -> list[Message]:
        value = cell(name)
        if value is None and role == "assistant":
            return []
        if not isinstance(value, str):
            raise Refused("wrong_type", f"{name} is {type(value).__name__}, expected text")
        return [{"role": role, "content": value}]

    if shape in ("conversations", "messages"):
        return read_turns(cell(shape), shape, columns)
    if shape == "alpaca":
        question = turn("user", "instruction")
        if cell("input") is not None:
            parts = (m["content"] for m in [*question, *turn("user", "input")])
            question = [{"role": "user", "content": "\n\n".join(filter(str.strip, parts))}]
        return [*_history(cell("history")), *question, *turn("assistant", "output")]
    if shape == "query-response":
        return [*_history(cell("history")), *turn("user", "query"), *turn("assistant", "response")]
    if isinstance(prompt := cell("prompt"), list):
        answer = cell("completion")
        answers = answer if isinstance(answer, list) else [answer] if answer else []
        return read_turns([*prompt, *answers], "prompt", columns)
    return [*turn("user", "prompt"), *turn("assistant", "completion")]


def _history(value: object) -> list[Message]:
    """Read earlier turns, told as a list of [question, answer]."""
    turns: list[Message] = []
    for pair in value if isinstance(value, list) else [value] if value else []:
        if not (isinstance(pair, list) and [type(text) for text in pair] == [str, str]):
            raise Refused("wrong_type", "history is no list of [question, answer] texts")
        roles = ("user", "assistant")
        turns += ({"role": who, "content": text} for who, text in zip(roles, pair, strict=True))
    return turns


def read_turns(value: object, name: str, columns: Mapping[str, str]) -> list[Message]:
    """Read the turns of a conversation, told as a list of role and text."""
    if not isinstance(value, list):
        raise Refused("wrong_type", f"{name} is {type(value).__name__}, expected a list")
    turns: list[Message] = []
    for number, item in enumerate(value):
        found = item if isinstance(item, Mapping) else {}
        role = found.get(columns.get("from", "from"), found.get("role"))
        text = found.get(columns.get("value", "value"), found.get("content"))
        if not (isinstance(role, str) and isinstance(text, str)):
            raise Refused("wrong_type", f"turn {number} has no text for role and content")
        if role.lower() not in _ROLES:
            raise Refused("wrong_type", f"turn {number} has the unknown role {role!r}")
        turns.append({"role": _ROLES[role.lower()], "content": text})
    return turns
