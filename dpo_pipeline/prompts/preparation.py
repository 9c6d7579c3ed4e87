"""Raw rows in any supported shape become unique prompts, train and held out.

No row is lost: what cannot become a prompt goes to the quarantine with its reason. The source is
read twice, first to settle the fate of every row, then to write it where it belongs; what stays
in memory of each is its question and a digest.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.prompts.classification import FAMILIES, family, language
from dpo_pipeline.prompts.quarantine import QUARANTINE, Refused, name_rows
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.shapes import Question, find_shape, read_question
from dpo_pipeline.prompts.sources import PEEK, Origin, SourceRef, read_source
from dpo_pipeline.prompts.split import split_wordings
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import messages_type, new_table


class PromptStats(Record):
    """What became of the rows of a source."""

    rows: int  # prompts: train and held_out
    train: int
    held_out: int
    answers_dropped: int  # rows whose given answer cannot be used
    sampled_out: int  # rows beyond the limit, or in other languages
    quarantined: int  # rows that are no prompts, by the reasons
    reasons: dict[str, int]
    shape: str
    source: Origin


@dataclass(slots=True)
class _Asked:
    """What is remembered of a row until all are read, and then its fate."""

    position: int
    same: bytes = b""  # digest of the user's turns: those of the assistant make no other question
    question: str = ""  # the last turn, normalised
    language: str = ""
    split: str | None = None  # its own, if any; then the side on which it is
    dropped: bool = False  # it gives an answer that cannot be used
    kept: bool = False  # neither refused nor beyond the limit
    refused: Refused | None = None  # why it goes to the quarantine, if so


def prepare_prompts(
    source: SourceRef, config: PromptsConfig, identity: IdentityConfig, out: Path
) -> PromptStats:
    """Read a source into prompts.parquet and quarantine.parquet.

    Placeholders in prompts and earlier turns are filled with the original identity, since the
    reference model answers as that one; a given answer is filled with the new one, and left out
    where that is not possible.

    Raises:
        DataError: No row has the expected columns, too many rows are in quarantine, or none is
            left to train on or to hold out.
    """
    spec = IdentitySpec(identity)
    rows = read_source(source, config.split)
    head = list(islice(rows, PEEK))
    if not head:
        raise DataError(f"{source.location} has no rows; name a source with at least one")
    shape = find_shape((row for _, row in head), config, source.location)
    read = partial(read_question, shape=shape, config=config, identity=identity)
    asked = [_remember(position, row, read) for position, row in chain(head, rows)]
    if why := _too_many_refused(asked, config):
        _write_refused(source, config, asked, out)
        raise DataError(f"{source.location} (shape {shape}): {why}")
    _drop_duplicates(asked)
    _split(_sample(asked, config), config)
    sides = Counter(row.split for row in asked if row.kept)
    for split in ("train", "held_out"):
        if not sides[split]:
            _write_refused(source, config, asked, out)
            refused = _list_refused(asked)
            raise DataError(
                f"{source.location}: {sides.total()} prompts leave none for {split}; "
                "add other wordings, or set prompts.held_out between 0 and 1"
                + (f". In quarantine: {refused}" if refused else "")
            )
    text = pa.string()
    told = dict.fromkeys(("split", "family", "language"), text)
    place = {"turns": pa.int32(), "source_row": pa.int64(), "given_chosen": text}
    schema = pa.schema({"id": text, "messages": messages_type(), **told, **place})
    with (
        new_table(out / "prompts.parquet", schema) as add,
        new_table(out / "quarantine.parquet", QUARANTINE) as refuse,
    ):
        for (position, row), known in zip(read_source(source, config.split), asked, strict=True):
            if known.refused:
                refuse({"source_row": position, **known.refused.record(row)})
            elif known.kept:
                add(_prompt(known, read(row), spec))
    reasons = _count_reasons(asked)
    return PromptStats(
        rows=sides.total(),
        train=sides["train"],
        held_out=sides["held_out"],
        answers_dropped=sum(row.dropped for row in asked),
        sampled_out=len(asked) - sides.total() - reasons.total(),
        quarantined=reasons.total(),
        reasons=dict(sorted(reasons.items())),
        shape=shape,
        source=source.origin,
    )


def _remember(position: int, row: object, read: Callable[[object], Question]) -> _Asked:
    try:
        found = read(row)
    except Refused as bad:  # a new one, since this one holds the row in its traceback
        return _Asked(position, refused=Refused(bad.reason, bad.detail))
    same = bytes.fromhex(digest_of(found.questions))
    question = found.questions[-1]
    return _Asked(position, same, question, _language(found), found.split, found.dropped)


def _language(found: Question) -> str:
    """Return a row's own language, or the one that it seems to be in."""
    spoken = found.own["language"]
    guess = language(found.messages[-1]["content"])
    return spoken if isinstance(spoken, str) and spoken else guess


def _too_many_refused(asked: list[_Asked], config: PromptsConfig) -> str:
    """Say why the rows that cannot become prompts are too many, and which they are, if so."""
    reasons = _count_reasons(asked)
    if reasons.total() <= config.max_quarantine * len(asked) and reasons.total() < len(asked):
        return ""
    return (
        f"{reasons.total()} of {len(asked)} rows cannot become prompts: {_list_refused(asked)}. "
        "Mend the source, set prompts.shape or prompts.columns, or raise prompts.max_quarantine"
    )


def _list_refused(asked: list[_Asked]) -> str:
    """List the reasons, the first rows of each and what is wrong with the first."""
    rows: dict[str, dict[int, str]] = {}
    for row in asked:
        if row.refused:
            rows.setdefault(row.refused.reason, {})[row.position] = row.refused.detail
    return "; ".join(
        f"{code} {n} ({name_rows(rows[code])}: {next(iter(rows[code].values()))})"
        for code, n in _count_reasons(asked).most_common()
    )


def _write_refused(
    source: SourceRef, config: PromptsConfig, asked: list[_Asked], out: Path
) -> None:
    """Write the quarantine alone."""
    with new_table(out / "quarantine.parquet", QUARANTINE) as refuse:
        for (position, row), known in zip(read_source(source, config.split), asked, strict=True):
            if known.refused:
                refuse({"source_row": position, **known.refused.record(row)})


def _count_reasons(asked: list[_Asked]) -> Counter[str]:
    return Counter(row.refused.reason for row in asked if row.refused)


def _drop_duplicates(asked: list[_Asked]) -> None:
    """Keep the first of equal prompts, and of those the first that is held out if any is."""
    kept: dict[bytes, _Asked] = {}
    for row in sorted(asked, key=lambda row: (row.split != "held_out", row.position)):
        if not row.refused and (first := kept.setdefault(row.same, row)) is not row:
            row.refused = Refused("duplicate", f"of row {first.position}")


def _sample(asked: list[_Asked], config: PromptsConfig) -> list[_Asked]:
    """Draw a sample of what was not refused that leaves neither side of the split empty."""
    drawn = sorted(
        (row for row in asked if not row.refused and _is_wanted(row, config)),
        key=lambda row: digest_of([config.seed, "sample", row.same.hex()]),
    )
    sample = drawn[: config.limit]
    sides = {row.split for row in drawn} - {row.split for row in sample} - {None}
    for place, side in enumerate(sorted(map(str, sides)), 1):
        if place < len(sample):
            sample[-place] = next(row for row in drawn if row.split == side)
    return sorted(sample, key=lambda row: row.position)


def _is_wanted(row: _Asked, config: PromptsConfig) -> bool:
    return config.languages is None or row.language in config.languages


def _split(asked: list[_Asked], config: PromptsConfig) -> None:
    """Choose the side of each row, and refuse train rows worded like one held out."""
    split = split_wordings([row.question for row in asked], [row.split for row in asked], config)
    placed = [(wording, side, row) for (wording, side), row in zip(split, asked, strict=True)]
    held_out = {wording: row for wording, _, row in reversed(placed) if row.split == "held_out"}
    for wording, side, row in placed:
        if row.split == "train" and (like := held_out.get(wording)):
            row.refused = Refused("near_duplicate_of_held_out", f"row {like.position}")
        row.split, row.kept = side, not row.refused


def _prompt(known: _Asked, found: Question, spec: IdentitySpec) -> dict[str, object]:
    """Return a row of prompts.parquet; a family or language of the row's own goes before ours."""
    last, turns = found.messages[-1]["content"], len(found.questions)
    own = found.own["family"]
    return {
        "id": digest_of(found.messages)[:32],
        "messages": found.messages,
        "split": known.split,
        "family": own if own in FAMILIES else family(last, turns, spec),
        "language": known.language,
        "turns": turns,
        "source_row": known.position,
        "given_chosen": found.given,
    }
