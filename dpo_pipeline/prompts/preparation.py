"""Raw rows in any supported shape become unique prompts, train and held out.

No row is lost: what cannot become a prompt goes to the quarantine with its reason. Rows pass
through a file; what stays in memory of each is its question and a digest.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.sources import (
    SourceRef,
    Unreadable,
    read_rows,
    read_split,
    resolve_source,
)
from dpo_pipeline.prompts.wordings import FAMILIES, family, language, normalise, same_wording
from dpo_pipeline.store.keys import digest_of
from dpo_pipeline.store.tables import Table, escaped, messages_type
from dpo_pipeline.store.tables import read_rows as read_table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SourceRef", "prepare_prompts", "resolve_source"]

# Reason code of the quarantine -> what it means.
REASONS = {
    "broken_row": "the row cannot be parsed",
    "wrong_type": "a field is missing or of another type",
    "no_human_turn": "nobody asks anything",
    "empty_prompt": "a turn is blank",
    "invalid_text": "the text is not valid Unicode",
    "control_token": "the text holds a token that forges a role or an end",
    "placeholder": "a placeholder cannot be filled",
    "unknown_split": "the row names a split that is neither train nor held out",
    "duplicate": "the same questions came before",
    "near_duplicate_of_held_out": "worded like a prompt that is held out",
}

# Shape -> the columns that tell it, all of them; in the order in which they are tried.
SHAPES = {
    "preference": ("chosen", "rejected"),
    "conversations": ("conversations",),
    "messages": ("messages",),
    "alpaca": ("instruction",),
    "query-response": ("query",),
    "prompt": ("prompt",),
}
# Names that prompts.columns may map.
_COLUMNS = {
    *(name for columns in SHAPES.values() for name in columns),
    *("from", "value", "history", "input", "output", "response", "completion"),
    *("family", "language", "split"),
}
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "bing": "assistant", "chatgpt": "assistant", "model": "assistant", "system": "system",
    "developer": "system",
}  # fmt: skip

# Text that a tokenizer of a chat model may read as a role or as an end.
CONTROL = re.compile(
    r"<[|｜][^<>\n]{1,60}[|｜]>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_\w+>"
    r"|<(?:bos|eos|pad|unk)>"
)

# Columns of the two files.
_PROMPT = ("id", "messages", "split", "family", "language", "turns", "source_row", "given_chosen")
_QUARANTINE = ("source_row", "reason", "detail", "row")

PEEK = 100  # rows whose columns tell the shape

Turn = tuple[str, str]


class _BadRowError(Exception):
    """A row that cannot become a prompt: a reason code, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(slots=True)
class _Asked:
    """What is remembered of a row until all are read, and then its fate.

    Attributes:
        position: Place of the row in its source.
        same: Digest of the user's turns, normalised: assistant turns make no other question.
        question: The last turn, normalised.
        split: train or held_out once known, null where neither; a row may carry its own.
        refused: Reason code and detail if the row goes to the quarantine.
    """

    position: int
    same: bytes
    question: str
    split: str | None
    refused: tuple[str, str] | None = None


def prepare_prompts(
    source: SourceRef, config: PromptsConfig, identity: IdentityConfig, out: Path
) -> dict[str, Any]:
    """Read a source into prompts.parquet and quarantine.parquet.

    Placeholders in prompts and earlier turns are filled with the original identity, since the
    reference model answers as that one; a given answer is filled with the new one, and left out
    where that is not possible.

    Args:
        source: What to read, from `resolve_source`.
        config: Shape, sampling and split.
        identity: Fills placeholders, and tells third-party questions.
        out: Empty folder.
    Returns:
        rows (prompts), train, held_out, sampled_out, answers_dropped, quarantined, reasons
        (code -> rows), shape, source.
    Raises:
        DataError: No row has the expected columns, too many rows are in quarantine, or none is
            left to train on or to hold out.
    """
    spec = IdentitySpec(identity)
    rows = read_rows(source, config.split)
    head = list(islice(rows, PEEK))
    if not head:
        raise DataError(f"{source.location} has no rows; name a source with at least one")
    shape = find_shape((row for _, row in head), config, source.location)
    asked: list[_Asked] = []
    counts: Counter[str] = Counter()
    candidates = out / "candidates.parquet"
    with Table(candidates, _schema(dict.fromkeys((*_PROMPT, *_QUARANTINE)))) as table:
        for position, row in chain(head, rows):
            record, remembered = _candidate(position, row, shape, config, spec)
            counts["answers_dropped"] += record.pop("dropped", 0)
            table.add(record)
            asked.append(remembered)
    where = f"{source.location} (shape {shape})"
    _check_share([row for row in asked if row.refused], len(asked), config, where)
    _drop_duplicates(asked)
    chosen = _sample([row for row in asked if not row.refused], config)
    _split(chosen, config)
    counts.update(_write(candidates, asked, {row.position for row in chosen}, out))
    candidates.unlink()
    for split in ("train", "held_out"):
        if not counts[split]:
            raise DataError(
                f"{source.location}: {counts['rows']} prompts leave none for {split}; "
                "add other wordings, or set prompts.held_out between 0 and 1"
            )
    reasons = Counter(row.refused[0] for row in asked if row.refused)
    return {
        **{name: counts[name] for name in ("rows", "train", "held_out", "answers_dropped")},
        "sampled_out": len(asked) - counts["rows"] - reasons.total(),
        "quarantined": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "shape": shape,
        "source": source.model_dump(include={"kind", "revision", "digest"})
        | {"name": Path(source.location).name if source.kind == "file" else source.location},
    }


def find_shape(rows: Iterable[Any], config: PromptsConfig, where: str) -> str:
    """Recognise the shape whose columns most of the rows fill.

    Raises:
        DataError: No row fills the columns of any shape, or of the configured one.
    """
    rows = [row for row in rows if isinstance(row, Mapping)]
    found = sorted({str(name) for row in rows for name in row if row[name] is not None})
    if unknown := sorted(config.columns.keys() - _COLUMNS):
        known = _near(unknown, sorted(_COLUMNS))
        raise DataError(f"prompts.columns maps {unknown[0]!r}, which nothing reads; known: {known}")
    # Two of the names lie inside the turns of a conversation.
    mapped = {have for want, have in config.columns.items() if want not in ("from", "value")}
    if missing := sorted(mapped - {name for row in rows for name in row}):
        raise DataError(
            f"{where} lacks {missing} of prompts.columns; it has {_near(missing, found)}"
        )

    def fills(row: Mapping[str, Any], shape: str) -> bool:
        names = (config.columns.get(name, name) for name in SHAPES[shape])
        return all(row.get(name) is not None for name in names)

    filled = {shape: sum(fills(row, shape) for row in rows) for shape in SHAPES}
    # The first of equals.
    shape = max(filled, key=lambda name: filled[name]) if config.shape == "auto" else config.shape
    if not filled[shape]:
        shapes = list(SHAPES) if config.shape == "auto" else [shape]
        expected = [name for shape in shapes for name in SHAPES[shape]]
        listed = " or ".join("+".join(SHAPES[shape]) for shape in shapes)
        example = json.dumps({expected[-1]: found[0] if found else "text"}, ensure_ascii=False)
        raise DataError(
            f"{where}: shape {config.shape} expects columns {listed}, found "
            f"{_near(expected, found)} with values; map them with prompts.columns, e.g. {example}, "
            "or set prompts.shape"
        )
    if shape == "preference" and config.shape == "auto":
        raise DataError(
            f"{where} holds chosen and rejected answers: it is a preference dataset, which "
            "flows/preference.py trains on; set prompts.shape to read its prompts only"
        )
    return shape


def _near(wanted: Iterable[str], found: Sequence[str]) -> str:
    """List what was found, and what of it may be a misspelling of what was wanted."""
    near = [(name, close[0]) for name in wanted if (close := get_close_matches(name, found, 1))]
    hints = [f"; {have!r} is close to {want!r}" for want, have in near if want != have]
    return f"{list(found)}{''.join(hints[:1])}"


def _candidate(
    position: int, row: Any, shape: str, config: PromptsConfig, spec: IdentitySpec
) -> tuple[dict[str, Any], _Asked]:
    """Read a row: its record, and what to remember of it."""
    record: dict[str, Any] = dict.fromkeys((*_PROMPT, *_QUARANTINE)) | {"source_row": position}
    if isinstance(row, Unreadable):
        text = row.text
    else:
        text = json.dumps(row, ensure_ascii=False, default=str)
    record["row"] = escaped(text)
    try:
        if isinstance(row, Unreadable):
            raise _BadRowError(row.reason, row.detail)
        if not isinstance(row, Mapping):
            raise _BadRowError("wrong_type", f"a row is an object, found {type(row).__name__}")
        turns, given = _question(row, shape, config, spec)
        split = _own_split(row, config)
    except _BadRowError as bad:
        return record, _Asked(position, b"", "", None, (bad.reason, str(bad)))
    record["dropped"] = 0
    if given is not None:
        try:
            record["given_chosen"] = _clean(spec.fill(given, after=True))
        except (DataError, _BadRowError):
            record["dropped"] = 1
    messages = [{"role": role, "content": text} for role, text in turns]
    questions = [normalise(text) for role, text in turns if role == "user"]
    own = row.get(config.columns.get("family", "family"))
    spoken = row.get(config.columns.get("language", "language"))
    last = turns[-1][1]
    record |= {
        "id": digest_of(messages)[:32],
        "messages": messages,
        "turns": len(questions),
        "family": own if own in FAMILIES else family(last, len(questions), spec),
        "language": spoken if isinstance(spoken, str) and spoken else language(last),
    }
    return record, _Asked(position, bytes.fromhex(digest_of(questions)), questions[-1], split)


def _own_split(row: Mapping[str, Any], config: PromptsConfig) -> str | None:
    try:
        return read_split(row.get(config.columns.get("split", "split")))
    except ValueError as error:
        raise _BadRowError("unknown_split", str(error)) from error


def _question(
    row: Mapping[str, Any], shape: str, config: PromptsConfig, spec: IdentitySpec
) -> tuple[list[Turn], str | None]:
    """Return the turns up to the last human one, and the answer that follows it."""
    turns = _turns(row, shape, config.columns)
    asked = [i for i, (role, _) in enumerate(turns) if role == "user"]
    if not asked:
        raise _BadRowError("no_human_turn", f"roles found: {[role for role, _ in turns]}")
    first, last = asked[-1 if config.context == "last" else 0], asked[-1]
    after = turns[last + 1 : last + 2]
    given = after[0][1] if after and after[0][0] == "assistant" else None
    turns = [turn for turn in turns[first : last + 1] if turn[0] != "system"]
    try:
        turns = [(role, _clean(spec.fill(text))) for role, text in turns]
    except DataError as error:
        raise _BadRowError("placeholder", str(error)) from error
    if blank := [i for i, (_, text) in enumerate(turns) if not text.strip()]:
        raise _BadRowError("empty_prompt", f"turn {blank[0]} of {len(turns)} is blank")
    return turns, given if given and given.strip() else None


def _turns(row: Mapping[str, Any], shape: str, columns: Mapping[str, str]) -> list[Turn]:
    """Return all turns of a row; the answer it gives, if any, comes last."""

    def cell(name: str) -> Any:
        return row.get(columns.get(name, name))

    def turn(role: str, name: str) -> list[Turn]:
        value = cell(name)
        if value is None and role == "assistant":
            return []
        if not isinstance(value, str):
            raise _BadRowError("wrong_type", f"{name} is {type(value).__name__}, expected text")
        return [(role, value)]

    if shape in ("conversations", "messages"):
        return _conversation(cell(shape), shape, columns)
    if shape == "alpaca":
        question = turn("user", "instruction")
        if cell("input") is not None:
            parts = (question[0][1], turn("user", "input")[0][1])
            question = [("user", "\n\n".join(filter(str.strip, parts)))]
        return [*_history(cell("history")), *question, *turn("assistant", "output")]
    if shape == "query-response":
        return [*_history(cell("history")), *turn("user", "query"), *turn("assistant", "response")]
    if isinstance(cell("prompt"), list):
        answer = cell("completion")
        answers = answer if isinstance(answer, list) else [answer] if answer else []
        return _conversation([*cell("prompt"), *answers], "prompt", columns)
    return [*turn("user", "prompt"), *turn("assistant", "completion")]


def _history(value: Any) -> list[Turn]:
    """Read earlier turns, told as a list of [question, answer]."""
    turns: list[Turn] = []
    for pair in value or []:
        if not (isinstance(pair, list) and [type(text) for text in pair] == [str, str]):
            raise _BadRowError("wrong_type", "history is no list of [question, answer] texts")
        turns += [("user", pair[0]), ("assistant", pair[1])]
    return turns


def _conversation(value: Any, name: str, columns: Mapping[str, str]) -> list[Turn]:
    if not isinstance(value, list):
        raise _BadRowError("wrong_type", f"{name} is {type(value).__name__}, expected a list")
    turns = []
    for number, item in enumerate(value):
        found = item if isinstance(item, Mapping) else {}
        role = found.get(columns.get("from", "from"), found.get("role"))
        text = found.get(columns.get("value", "value"), found.get("content"))
        if not (isinstance(role, str) and isinstance(text, str)):
            raise _BadRowError("wrong_type", f"turn {number} has no text for role and content")
        if role.lower() not in ROLES:
            raise _BadRowError("wrong_type", f"turn {number} has the unknown role {role!r}")
        turns.append((ROLES[role.lower()], text))
    return turns


def _clean(text: str) -> str:
    """Return the text as it is, if a model may read it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRowError("invalid_text", f"not valid Unicode at {error.start}") from error
    if found := CONTROL.search(text):
        raise _BadRowError("control_token", f"{found.group()!r} would forge a role or an end")
    return text


def _check_share(refused: list[_Asked], total: int, config: PromptsConfig, where: str) -> None:
    if len(refused) <= config.max_quarantine * total and len(refused) < total:
        return
    first: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for row in refused:
        reason, detail = row.refused or ("", "")
        reasons[reason] += 1
        first.setdefault(reason, f"row {row.position}: {detail}")
    listed = "; ".join(f"{code} {n} ({first[code]})" for code, n in reasons.most_common())
    raise DataError(
        f"{where}: {len(refused)} of {total} rows cannot become prompts: {listed}. Mend the "
        "source, set prompts.shape or prompts.columns, or raise prompts.max_quarantine"
    )


def _drop_duplicates(asked: list[_Asked]) -> None:
    """Keep the first of equal prompts, and of those the first that is held out if any is."""
    kept: dict[bytes, _Asked] = {}
    for row in sorted(asked, key=lambda row: (row.split != "held_out", row.position)):
        if not row.refused and (first := kept.setdefault(row.same, row)) is not row:
            row.refused = ("duplicate", f"of row {first.position}")


def _sample(asked: list[_Asked], config: PromptsConfig) -> list[_Asked]:
    """Draw a sample that leaves neither side of the split empty."""
    drawn = sorted(asked, key=lambda row: digest_of([config.seed, "sample", row.same.hex()]))
    sample = drawn[: config.limit]
    sides = {row.split for row in drawn} - {row.split for row in sample} - {None}
    for place, side in enumerate(sorted(map(str, sides)), 1):
        if place < len(sample):
            sample[-place] = next(row for row in drawn if row.split == side)
    return sorted(sample, key=lambda row: row.position)


def split_wordings(
    questions: Sequence[str], own: Sequence[str | None], config: PromptsConfig
) -> list[tuple[int, str]]:
    """Put questions on the two sides of the split, all of one wording on the same.

    Where rows name both sides, a wording goes where its rows say, held out before train. Of the
    others, drawn in an order that follows the seed, whole wordings are held out as long as they
    fit the share.

    Args:
        questions: Normalised.
        own: The side that each row names, or null.
        config: Share, similarity and seed.
    Returns:
        For each question the index of the first of its wording, and "train" or "held_out".
    """
    wordings = same_wording(questions, config.near_duplicate)
    sides: dict[int, str] = {}
    if {"train", "held_out"} <= set(own):  # one and the same side for all tells nothing
        for wording, side in zip(wordings, own, strict=True):
            if side and sides.get(wording) != "held_out":
                sides[wording] = side
    free = Counter(wording for wording in wordings if wording not in sides)
    room = config.held_out * free.total()
    if config.held_out and not sides and len(free) > 1:
        room = max(room, min(free.values()))
    for wording in sorted(free, key=lambda i: digest_of([config.seed, questions[i]])):
        sides[wording] = "held_out" if free[wording] <= room else "train"
        room -= free[wording] * (sides[wording] == "held_out")
    return [(wording, sides[wording]) for wording in wordings]


def _split(asked: list[_Asked], config: PromptsConfig) -> None:
    """Choose the side of each row, and refuse train rows worded like one held out."""
    split = split_wordings([row.question for row in asked], [row.split for row in asked], config)
    held_out: dict[int, _Asked] = {}
    for (wording, _), row in zip(split, asked, strict=True):
        if row.split == "held_out":
            held_out.setdefault(wording, row)
    for (wording, side), row in zip(split, asked, strict=True):
        if row.split == "train" and (like := held_out.get(wording)):
            row.refused = ("near_duplicate_of_held_out", f"row {like.position}")
        row.split = side


def _schema(columns: Iterable[str]) -> "pa.Schema":
    import pyarrow as pa

    types = {"messages": messages_type(), "turns": pa.int32(), "source_row": pa.int64()}
    return pa.schema([(name, types.get(name, pa.string())) for name in columns])


def _write(candidates: Path, asked: list[_Asked], chosen: set[int], out: Path) -> Counter[str]:
    """Send every candidate where it belongs, in the order of the source."""
    counts: Counter[str] = Counter()
    with (
        Table(out / "prompts.parquet", _schema(_PROMPT)) as prompts,
        Table(out / "quarantine.parquet", _schema(_QUARANTINE)) as quarantine,
    ):
        for record, row in zip(read_table(candidates), asked, strict=True):
            if row.refused:
                reason, detail = row.refused
                record |= {"reason": reason, "detail": escaped(detail)}
                quarantine.add({name: record[name] for name in _QUARANTINE})
            elif row.position in chosen:
                record["split"] = row.split
                counts.update(("rows", str(row.split)))
                prompts.add({name: record[name] for name in _PROMPT})
    return counts
