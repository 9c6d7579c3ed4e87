"""Raw rows in any supported shape become unique prompts, train and held out.

No row is lost: what cannot become a prompt goes to the quarantine with its reason.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.config import IdentityConfig, PromptsConfig
from dpo_pipeline.errors import DataError
from dpo_pipeline.identity import IdentitySpec
from dpo_pipeline.keys import digest_of
from dpo_pipeline.sources import SourceRef, Unreadable, read_rows, resolve_source
from dpo_pipeline.tables import Table
from dpo_pipeline.wording import FAMILIES, family, language, normalise, same_wording

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SourceRef", "prepare_prompts", "resolve_source"]

# Shape -> the columns that tell it, all of them; in the order in which they are tried.
SHAPES = {
    "preference": ("chosen", "rejected"),
    "conversations": ("conversations",),
    "messages": ("messages",),
    "alpaca": ("instruction",),
    "query-response": ("query",),
    "prompt": ("prompt",),
}
ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "bing": "assistant", "chatgpt": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
SPLITS = {"train": "train", "held_out": "held_out", "test": "held_out", "validation": "held_out"}

# Text that a tokenizer of a chat model may read as a role or as an end.
_CONTROL = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")

Turn = tuple[str, str]


class _BadRowError(Exception):
    """A row that cannot become a prompt: a reason code, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass
class _Prompt:
    """One prompt on its way: the turns up to the last question, and where it came from."""

    position: int
    row: Any
    turns: list[Turn]
    given: str | None
    split: str | None
    family: str
    language: str

    def messages(self) -> list[dict[str, str]]:
        return [{"role": role, "content": text} for role, text in self.turns]

    def wording(self) -> str:
        """Join the user's turns, normalised: assistant turns make no other question."""
        return " / ".join(normalise(text) for role, text in self.turns if role == "user")


def prepare_prompts(
    source: SourceRef, config: PromptsConfig, identity: IdentityConfig, out: Path
) -> dict[str, Any]:
    """Read a source into prompts.parquet and quarantine.parquet.

    Placeholders in prompts and earlier turns are filled with the original identity, since the
    reference model answers as that one; a given answer is filled with the new one.

    Args:
        source: What to read, from `resolve_source`.
        config: Shape, sampling and split.
        identity: Fills placeholders, and tells third-party questions.
        out: Empty folder.
    Returns:
        rows, train, held_out, quarantined, reasons (code -> rows), shape, source.
    Raises:
        DataError: No row has the expected columns, too many rows are in quarantine, or none is
            left to train on or to hold out.
    """
    spec = IdentitySpec(identity)
    rows = list(read_rows(source, config.split))
    if not rows:
        raise DataError(f"{source.location} has no rows; name a source with at least one")
    shape = find_shape((row for _, row in rows), config, source.location)
    refused: list[tuple[int, Any, str, str]] = []
    prompts = []
    for position, row in rows:
        try:
            prompts.append(_read(position, row, shape, config, spec))
        except _BadRowError as bad:
            refused.append((position, row, bad.reason, bad.detail))
    _check_share(refused, len(rows), config, source.location)
    prompts, repeated = _unique(prompts)
    refused += repeated
    prompts = _sample(prompts, config)
    prompts, leaking = _split(prompts, config)
    refused += leaking
    counts = Counter(prompt.split for prompt in prompts)
    for split in ("train", "held_out"):
        if not counts[split]:
            raise DataError(
                f"{source.location}: {len(prompts)} prompts leave none for {split}; "
                "raise prompts.limit, or set prompts.held_out between 0 and 1"
            )
    _write(prompts, refused, out)
    return {
        "rows": len(prompts),
        "train": counts["train"],
        "held_out": counts["held_out"],
        "quarantined": len(refused),
        "reasons": dict(sorted(Counter(reason for *_, reason, _ in refused).items())),
        "shape": shape,
        "source": source.model_dump(include={"kind", "revision", "digest"})
        | {"name": Path(source.location).name if source.kind == "file" else source.location},
    }


def find_shape(rows: Iterable[Any], config: PromptsConfig, where: str) -> str:
    """Recognise the shape of the rows from the columns of the first readable one.

    Raises:
        DataError: The columns fit no shape, or not the configured one.
    """
    first: Mapping[str, Any] = next((row for row in rows if isinstance(row, Mapping)), {})
    found = sorted(first)
    if missing := sorted(set(config.columns.values()) - set(found)):
        raise DataError(f"{where} lacks {missing} of prompts.columns; it has {found}")
    names = {*found, *config.columns}
    fitting = [shape for shape, columns in SHAPES.items() if names.issuperset(columns)]
    if config.shape != "auto":
        if config.shape not in fitting:
            raise DataError(
                f"{where}: shape {config.shape} expects {list(SHAPES[config.shape])}, found "
                f"{found}; map them with prompts.columns"
            )
        fitting = [config.shape]
    if not fitting:
        expected = " or ".join("+".join(columns) for columns in SHAPES.values())
        raise DataError(
            f"{where}: expected columns {expected}, found {found}; map them with prompts.columns"
        )
    if fitting[0] == "preference":
        raise DataError(
            f"{where} holds chosen and rejected answers: it is a preference dataset, which "
            "flows/preference.py trains on; set prompts.shape to read its prompts only"
        )
    return fitting[0]


def _read(
    position: int, row: Any, shape: str, config: PromptsConfig, spec: IdentitySpec
) -> _Prompt:
    if isinstance(row, Unreadable):
        raise _BadRowError(row.reason, row.detail)
    if not isinstance(row, Mapping):
        raise _BadRowError("wrong_type", f"a row is an object, found {type(row).__name__}")
    turns, given = _turns(row, shape, config.columns)
    asked = [i for i, (role, _) in enumerate(turns) if role == "user"]
    if not asked:
        raise _BadRowError("no_human_turn", f"roles found: {[role for role, _ in turns]}")
    last = asked[-1]
    if given is None and last + 1 < len(turns):
        given = turns[last + 1][1]
    turns = [turn for turn in turns[: last + 1] if turn[0] != "system"]
    if config.context == "last":
        turns = turns[-1:]
    try:
        turns = [(role, _clean(spec.fill(text))) for role, text in turns]
        given = _clean(spec.fill(given, after=True)) if given and given.strip() else None
    except DataError as error:
        raise _BadRowError("placeholder", str(error)) from error
    if not turns[-1][1].strip():
        raise _BadRowError("empty_prompt", "the last human turn is blank")
    return _Prompt(position, row, turns, given, *_labels(row, turns, spec))


def _turns(
    row: Mapping[str, Any], shape: str, columns: Mapping[str, str]
) -> tuple[list[Turn], str | None]:
    """Return the turns of a row and the answer it gives, if any."""

    def cell(name: str, optional: bool = True) -> str | None:
        value = row.get(columns.get(name, name))
        if value is None and optional:
            return None
        if not isinstance(value, str):
            raise _BadRowError("wrong_type", f"{name} is {type(value).__name__}, expected text")
        return value

    def turn(name: str) -> list[Turn]:
        return [("user", cell(name, optional=False) or "")]

    if shape in ("conversations", "messages"):
        return _conversation(row.get(columns.get(shape, shape))), None
    if shape == "alpaca":
        question = "\n\n".join(filter(None, (cell("instruction", False), cell("input"))))
        return [*_history(row), ("user", question)], cell("output")
    if shape == "query-response":
        return turn("query"), cell("response")
    if shape == "prompt" and isinstance(row.get(columns.get("prompt", "prompt")), list):
        return _conversation(row[columns.get("prompt", "prompt")]), None
    return turn("prompt"), cell("completion")


def _history(row: Mapping[str, Any]) -> list[Turn]:
    turns: list[Turn] = []
    for pair in row.get("history") or []:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise _BadRowError("wrong_type", "history is a list of [question, answer] pairs")
        turns += [("user", str(pair[0])), ("assistant", str(pair[1]))]
    return turns


def _conversation(value: Any) -> list[Turn]:
    if not isinstance(value, list | tuple):
        raise _BadRowError("wrong_type", f"expected a list of turns, found {type(value).__name__}")
    turns = []
    for number, item in enumerate(value):
        found = item if isinstance(item, Mapping) else {}
        role, text = found.get("from", found.get("role")), found.get("value", found.get("content"))
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
    if found := _CONTROL.search(text):
        raise _BadRowError("control_token", f"{found.group()!r} would forge a role or an end")
    return text


def _labels(
    row: Mapping[str, Any], turns: list[Turn], spec: IdentitySpec
) -> tuple[str | None, str, str]:
    """Return split, family and language: the row's own where it carries them, else guessed."""
    question = turns[-1][1]
    asked = sum(role == "user" for role, _ in turns)
    own = row.get("family")
    guessed = own if own in FAMILIES else family(question, asked, spec)
    spoken = row.get("language")
    return (
        SPLITS.get(str(row.get("split"))),
        guessed,
        spoken if isinstance(spoken, str) and spoken else language(question),
    )


def _check_share(
    refused: list[tuple[int, Any, str, str]], total: int, config: PromptsConfig, where: str
) -> None:
    if len(refused) <= config.max_quarantine * total and len(refused) < total:
        return
    reasons = Counter(reason for *_, reason, _ in refused)
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    position, _, reason, detail = refused[0]
    raise DataError(
        f"{where}: {len(refused)} of {total} rows cannot become prompts ({listed}); first, row "
        f"{position}: {reason}: {detail}. Mend the source, or raise prompts.max_quarantine"
    )


def _unique(prompts: list[_Prompt]) -> tuple[list[_Prompt], list[tuple[int, Any, str, str]]]:
    """Keep the first of equal prompts; the others are refused as duplicates."""
    kept: dict[str, _Prompt] = {}
    repeated = []
    for prompt in prompts:
        first = kept.setdefault(prompt.wording(), prompt)
        if first is not prompt:
            repeated.append((prompt.position, prompt.row, "duplicate", f"of row {first.position}"))
            # Held out wins: training must not see what a copy of it holds out.
            if prompt.split == "held_out":
                first.split = "held_out"
    return list(kept.values()), repeated


def _lot(text: str, seed: int) -> float:
    """Draw a number from [0, 1) that depends on the text and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _sample(prompts: list[_Prompt], config: PromptsConfig) -> list[_Prompt]:
    if config.limit is None or config.limit >= len(prompts):
        return prompts
    drawn = sorted(prompts, key=lambda p: _lot(f"sample {p.wording()}", config.seed))
    return sorted(drawn[: config.limit], key=lambda p: p.position)


def _split(
    prompts: list[_Prompt], config: PromptsConfig
) -> tuple[list[_Prompt], list[tuple[int, Any, str, str]]]:
    """Split whole groups of one wording; drop train rows worded like a held-out one."""
    groups = same_wording([p.wording() for p in prompts], config.near_duplicate)
    held_out = {group: p for group, p in zip(groups, prompts, strict=True) if p.split == "held_out"}
    kept, leaking = [], []
    for group, prompt in zip(groups, prompts, strict=True):
        if prompt.split == "train" and group in held_out:
            like = held_out[group].position
            leaking.append(
                (prompt.position, prompt.row, "near_duplicate_of_held_out", f"row {like}")
            )
            continue
        if prompt.split is None:
            drawn = _lot(f"split {prompts[group].wording()}", config.seed) < config.held_out
            prompt.split = "held_out" if drawn or group in held_out else "train"
        kept.append(prompt)
    return kept, leaking


def _schemas() -> "tuple[pa.Schema, pa.Schema]":
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    prompts = pa.schema(
        [
            ("id", pa.string()),
            ("messages", pa.list_(message)),
            ("split", pa.string()),
            ("family", pa.string()),
            ("language", pa.string()),
            ("turns", pa.int32()),
            ("source_row", pa.int64()),
            ("given_chosen", pa.string()),
        ]
    )
    quarantine = pa.schema(
        [
            ("source_row", pa.int64()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("row", pa.string()),
        ]
    )
    return prompts, quarantine


def _write(prompts: list[_Prompt], refused: list[tuple[int, Any, str, str]], out: Path) -> None:
    schema, quarantine_schema = _schemas()
    with Table(out / "prompts.parquet", schema) as table:
        for prompt in prompts:
            messages = prompt.messages()
            table.add(
                {
                    "id": digest_of(messages)[:32],
                    "messages": messages,
                    "split": prompt.split,
                    "family": prompt.family,
                    "language": prompt.language,
                    "turns": sum(role == "user" for role, _ in prompt.turns),
                    "source_row": prompt.position,
                    "given_chosen": prompt.given,
                }
            )
    with Table(out / "quarantine.parquet", quarantine_schema) as table:
        for position, row, reason, detail in sorted(refused, key=lambda r: r[0]):
            text = row.text if isinstance(row, Unreadable) else _as_json(row)
            table.add(
                {
                    "source_row": position,
                    "reason": reason,
                    "detail": _encodable(detail),
                    "row": _encodable(text),
                }
            )


def _as_json(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False, default=str)


def _encodable(text: str) -> str:
    """Show what is not valid Unicode as escapes, so that the quarantine can hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
