"""Raw rows in any supported shape become unique prompts, train and held out.

No row is lost: what cannot become a prompt goes to the quarantine with its reason. Rows pass
through a file; what stays in memory of each is its question and a digest.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.prompts.classification import FAMILIES, family, language
from dpo_pipeline.prompts.formats import Unreadable
from dpo_pipeline.prompts.quarantine import Refused, checked_text
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.shapes import find_shape, read_question
from dpo_pipeline.prompts.sources import SourceRef, read_rows, read_split, resolve_source
from dpo_pipeline.prompts.split import split_wordings
from dpo_pipeline.prompts.wordings import normalise
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.tables import Table, messages_type
from dpo_pipeline.store.tables import read_rows as read_table
from dpo_pipeline.store.text import escaped

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SourceRef", "prepare_prompts", "resolve_source"]


# Columns of the two files.
_PROMPT = ("id", "messages", "split", "family", "language", "turns", "source_row", "given_chosen")
_QUARANTINE = ("source_row", "reason", "detail", "row")

PEEK = 100  # rows whose columns tell the shape


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
        "source": source.origin.model_dump(),
    }


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
            raise Refused(row.reason, row.detail)
        if not isinstance(row, Mapping):
            raise Refused("wrong_type", f"a row is an object, found {type(row).__name__}")
        turns, given = read_question(row, shape, config, spec)
        split = _own_split(row, config)
    except Refused as bad:
        return record, _Asked(position, b"", "", None, (bad.reason, str(bad)))
    record["dropped"] = 0
    if given is not None:
        try:
            record["given_chosen"] = checked_text(spec.fill(given, after=True))
        except (DataError, Refused):
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
        raise Refused("unknown_split", str(error)) from error


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
