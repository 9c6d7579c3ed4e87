"""Pairs on trial: the checks they pass, their length in tokens, and the files they end up in.

What fails a check goes to the quarantine with a reason code; the rest is measured in tokens the
way training will see it. Rows in equal pairs plus quarantine; `write_pairs` holds that.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.rewriting import Span
from dpo_pipeline.models.chat_templates import render_pair
from dpo_pipeline.pairs.lineage import Metadata
from dpo_pipeline.pairs.schema import FACTS, SPAN_ENDS, pairs_schema, quarantine_schema
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import ROW_GROUP, Row, new_table
from dpo_pipeline.store.text import common_start, excerpt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


class PairStats(Record):
    """What became of the rows.

    Attributes:
        rows: Pairs and quarantine.
        pairs: train and held_out.
        quarantine: Rows that are no pairs, by the reasons.
        flags: Remark -> pairs that carry it.
        rules: Rule of the rewriting -> edits.
    """

    rows: int
    pairs: int
    train: int
    held_out: int
    quarantine: int
    reasons: dict[str, int]
    flags: dict[str, int]
    rules: dict[str, int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair on trial, or a row already refused.

    Attributes:
        facts: The columns FACTS.
        row: The row it came from, JSON-able, for the quarantine.
        prompt: Messages, the last one from the user.
        chosen: Text of the chosen completion.
        rejected: Text of the rejected completion.
        spans: Where they differ (characters): start and end in rejected, then in chosen.
        flags: Keys of FLAGS.
        rules: Edits per rule.
        refused: Why it cannot become a pair, if so.
    """

    facts: Row
    row: Row
    prompt: list[Message] = field(default_factory=list)
    chosen: str = ""
    rejected: str = ""
    spans: Sequence[Span] = ()
    flags: tuple[str, ...] = ()
    rules: dict[str, int] = field(default_factory=dict)
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
    import pyarrow.parquet as pq

    splits, reasons, flags, rules = (Counter[str]() for _ in range(4))
    added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    control = sorted({*tokenizer.all_special_tokens, *added} - {""})
    rows, seen, iterator = 0, set[int](), iter(candidates)
    pairs, quarantine = out / "pairs.parquet", out / "quarantine.parquet"
    with (
        new_table(pairs, pairs_schema(metadata)) as add,
        new_table(quarantine, quarantine_schema(metadata)) as refuse,
    ):
        while batch := list(islice(iterator, ROW_GROUP)):
            rows += len(batch)
            verdicts = [_verdict(candidate, control, seen) for candidate in batch]
            passed = [c for c, v in zip(batch, verdicts, strict=True) if v is None]
            measured = _measure(passed, tokenizer, metadata.max_length)
            for candidate, verdict in zip(batch, verdicts, strict=True):
                result = verdict or next(measured)
                if isinstance(result, Refused):
                    reasons[result.reason] += 1
                    place = {name: candidate.facts[name] for name in ("id", "source_row")}
                    refuse(place | result.record(candidate.row))
                else:
                    splits[result["split"]] += 1
                    flags.update(result["flags"])
                    rules.update(candidate.rules)
                    add(result)
    kept, refused = (pq.read_metadata(path).num_rows for path in (pairs, quarantine))
    if rows != kept + refused:
        raise DataError(f"{rows} rows in, {kept} pairs and {refused} in quarantine")
    return PairStats(
        rows=rows,
        pairs=kept,
        train=splits["train"],
        held_out=splits["held_out"],
        quarantine=refused,
        reasons=dict(reasons.most_common()),
        flags=dict(flags.most_common()),
        rules=dict(rules.most_common()),
    )


def _verdict(candidate: Candidate, control: list[str], seen: set[int]) -> Refused | None:
    if candidate.refused:
        return candidate.refused
    chosen, rejected = candidate.chosen, candidate.rejected
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            return Refused("empty_completion", name)
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
    return None


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
                f"row {candidate.facts['id']}: the rewritten answer differs from the model's "
                f"outside the edit, after character {at}; report this with the identity settings"
            )
        at, new_at = end, new_end


def _measure(
    candidates: list[Candidate], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[Row | Refused]:
    """Yield each candidate's row with its token counts, or why it does not fit."""
    rendered = [_render(candidate, tokenizer) for candidate in candidates]
    texts = [text for item in rendered if isinstance(item, list) for text in item]
    plain = not tokenizer.chat_template
    # Not verbose: what is too long goes to the quarantine.
    tokens = tokenizer(texts, add_special_tokens=plain, verbose=False) if texts else {}
    ids = iter(tokens.get("input_ids", []))
    for candidate, item in zip(candidates, rendered, strict=True):
        if isinstance(item, Refused):
            yield item
            continue
        prompt, chosen, rejected = next(ids), next(ids), next(ids)
        if chosen == rejected:
            yield Refused("identical", f"as tokens: {excerpt(candidate.chosen)}")
            continue
        # TRL starts the completion where prompt and prompt + completion diverge.
        start = min(common_start(prompt, chosen), common_start(prompt, rejected))
        longest, parts_at = max(len(chosen), len(rejected)), common_start(chosen, rejected)
        if longest > max_length:
            reason = "difference_cut" if parts_at >= max_length else "too_long"
            detail = f"{longest} tokens, the limit is {max_length}; they differ from {parts_at} on"
            yield Refused(reason, detail)
            continue
        boundary = ["boundary"] if start < len(prompt) else []
        yield {
            **{name: candidate.facts[name] for name in FACTS},
            "prompt": candidate.prompt,
            "chosen": _said(candidate.chosen),
            "rejected": _said(candidate.rejected),
            "spans": [dict(zip(SPAN_ENDS, span, strict=True)) for span in candidate.spans],
            "prompt_tokens": start,
            "chosen_tokens": len(chosen) - start,
            "rejected_tokens": len(rejected) - start,
            "flags": [*candidate.flags, *boundary],
        }


def _render(candidate: Candidate, tokenizer: "PreTrainedTokenizerBase") -> list[str] | Refused:
    from jinja2.exceptions import TemplateError

    completions = (_said(candidate.chosen), _said(candidate.rejected))
    try:
        return render_pair(tokenizer, candidate.prompt, completions)
    except TemplateError as error:
        return Refused("template_error", str(error))


def _said(text: str) -> list[Message]:
    return [{"role": "assistant", "content": text}]
