"""Pairs on trial: the checks they pass, their length in tokens, and the files they end up in.

What fails a check goes to the quarantine with a reason code; the rest is measured in tokens the
way training will see it. Rows in equal pairs plus quarantine; `write_pairs` holds that.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow.parquet as pq
from jinja2 import TemplateError

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.rewriting import Span
from dpo_pipeline.models.chat_templates import Message, render_pair
from dpo_pipeline.pairs.schema import FACTS, SPAN_ENDS, Metadata, schemas
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import ROW_GROUP, Row, new_table
from dpo_pipeline.store.text import common_start, excerpt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Counts(Record):
    """What became of rows."""

    rows: int  # pairs and quarantine
    pairs: int  # train and held_out
    train: int
    held_out: int
    quarantine: int  # rows that are no pairs, by the reasons
    reasons: dict[str, int]

    @classmethod
    def of(cls, splits: Counter[str], reasons: Counter[str], **more: Any) -> Self:
        """Sum up pairs by split, and rows in quarantine by reason."""
        return cls(
            rows=splits.total() + reasons.total(),
            pairs=splits.total(),
            train=splits["train"],
            held_out=splits["held_out"],
            quarantine=reasons.total(),
            reasons=dict(reasons.most_common()),
            **more,
        )


class PairStats(Counts):
    """What became of the rows that pairs were made of."""

    flags: dict[str, int]  # remark -> pairs that carry it
    rules: dict[str, int]  # rule of the rewriting -> edits


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair on trial, or a row already refused."""

    facts: Row  # the columns FACTS
    row: Row  # the row it came from, JSON-able, for the quarantine
    prompt: list[Message] = field(default_factory=list)  # the last one from the user
    chosen: str = ""
    rejected: str = ""
    spans: Sequence[Span] = ()  # where they differ
    flags: tuple[str, ...] = ()
    rules: dict[str, int] = field(default_factory=dict)  # edits per rule
    way: str = "given"
    refused: Refused | None = None


def write_pairs(
    candidates: Iterable[Candidate],
    tokenizer: "PreTrainedTokenizerBase",
    metadata: Metadata,
    out: Path,
) -> PairStats:
    """Check and measure candidates; write pairs.parquet and quarantine.parquet.

    Streams: at most ROW_GROUP rows are held, and a digest of every pair.

    Raises:
        DataError: Rows in differ from pairs plus quarantine.
        StoreError: The disk is full or not writable.
    """
    splits, reasons, flags, rules = (Counter[str]() for _ in range(4))
    pairs, quarantine = out / "pairs.parquet", out / "quarantine.parquet"
    kept, refused = schemas(metadata)
    with new_table(pairs, kept) as add, new_table(quarantine, refused) as refuse:
        for candidate, result in _judged(candidates, tokenizer, metadata.max_length):
            if isinstance(result, Refused):
                reasons[result.reason] += 1
                place = {name: candidate.facts[name] for name in ("id", "source_row")}
                refuse(place | result.record(candidate.row))
            else:
                splits[result["split"]] += 1
                flags.update(result["flags"])
                rules.update(candidate.rules)
                add(result)
    marks = {"flags": dict(flags.most_common()), "rules": dict(rules.most_common())}
    counts = PairStats.of(splits, reasons, **marks)
    found, left = (pq.read_metadata(path).num_rows for path in (pairs, quarantine))
    if (found, left) != (counts.pairs, counts.quarantine):
        raise DataError(f"{counts.rows} rows in, {found} pairs and {left} in quarantine")
    return counts


def _judged(
    candidates: Iterable[Candidate], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[tuple[Candidate, Row | Refused]]:
    """Yield each candidate with its row of pairs.parquet, or with why it is none."""
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    control = sorted({*tokenizer.all_special_tokens, *added} - {""})
    seen, iterator = set[int](), iter(candidates)
    while batch := list(islice(iterator, ROW_GROUP)):
        rendered = [_render(c, tokenizer, control, seen) for c in batch]
        texts = [text for item in rendered if isinstance(item, list) for text in item]
        # Not verbose: what is too long goes to the quarantine.
        plain = not tokenizer.chat_template
        tokens = tokenizer(texts, add_special_tokens=plain, verbose=False) if texts else {}
        ids = iter(tokens.get("input_ids", []))
        for candidate, item in zip(batch, rendered, strict=True):
            if isinstance(item, Refused):
                yield candidate, item
            else:
                yield candidate, _measured(candidate, next(ids), next(ids), next(ids), max_length)


def _render(
    candidate: Candidate, tokenizer: "PreTrainedTokenizerBase", control: list[str], seen: set[int]
) -> list[str] | Refused:
    """Return the texts of a candidate that passes the checks, as `render_pair` has them."""
    if candidate.refused:
        return candidate.refused
    chosen, rejected = candidate.chosen, candidate.rejected
    if not (chosen.strip() and rejected.strip()):
        return Refused("empty_completion", "rejected" if chosen.strip() else "chosen")
    for text in (chosen, rejected, *(m["content"] for m in candidate.prompt)):
        if found := next((token for token in control if token in text), None):
            return Refused("control_token", found)
    if chosen == rejected:
        return Refused("identical", excerpt(chosen))
    check_edit(candidate)
    key = int(digest_of([candidate.prompt, chosen, rejected])[:16], 16)
    if key in seen:
        return Refused("duplicate")
    seen.add(key)
    try:
        return render_pair(tokenizer, candidate.prompt, (said(chosen), said(rejected)))
    except TemplateError as error:
        return Refused("template_error", str(error))


def check_edit(candidate: Candidate) -> None:
    """Hold that chosen and rejected differ only in the spans.

    Raises:
        DataError: They do not: a fault of the rewriting, not of the data.
    """
    rejected, chosen = candidate.rejected, candidate.chosen
    at = new_at = 0
    for start, end, new_start, new_end in (*candidate.spans, (len(rejected), 0, len(chosen), 0)):
        if start < at or new_start < new_at or rejected[at:start] != chosen[new_at:new_start]:
            raise DataError(
                f"row {candidate.facts['source_row']}: the rewritten answer differs from the "
                f"model's outside the edit, after character {at}; report this with the identity "
                "settings"
            )
        at, new_at = end, new_end


def _measured(
    candidate: Candidate, prompt: list[int], chosen: list[int], rejected: list[int], limit: int
) -> Row | Refused:
    """Return the row of a candidate from its tokens, or why it is none within the limit."""
    if chosen == rejected:
        return Refused("identical", f"as tokens: {excerpt(candidate.chosen)}")
    longest, parts_at = max(len(chosen), len(rejected)), common_start(chosen, rejected)
    if longest > limit:
        reason = "difference_cut" if parts_at >= limit else "too_long"
        detail = f"{longest} tokens, the limit is {limit}; they differ from {parts_at} on"
        return Refused(reason, detail)
    # TRL starts the completion where prompt and prompt + completion diverge.
    start = min(common_start(prompt, chosen), common_start(prompt, rejected))
    return {
        **{name: candidate.facts[name] for name in FACTS},
        "prompt": candidate.prompt,
        "chosen": said(candidate.chosen),
        "rejected": said(candidate.rejected),
        "way": candidate.way,
        "spans": [dict(zip(SPAN_ENDS, span, strict=True)) for span in candidate.spans],
        "prompt_tokens": start,
        "chosen_tokens": len(chosen) - start,
        "rejected_tokens": len(rejected) - start,
        "flags": [*candidate.flags, *(["boundary"] if start < len(prompt) else [])],
    }


def said(text: str) -> list[Message]:
    """Return a completion: one message of the assistant."""
    return [{"role": "assistant", "content": text}]
