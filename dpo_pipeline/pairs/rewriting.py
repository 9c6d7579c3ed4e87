"""Answers of the model become pairs: to each, the answer that the new identity would give."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar, get_args

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.rewriting import Rewrite, difference
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.system_message import DefaultSystem
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.pairs.schema import FACTS, describe_pairs, explain_reasons
from dpo_pipeline.pairs.settings import WAYS, PairsConfig, Way
from dpo_pipeline.pairs.ways import asks, fault, fill_in, question_of, replace
from dpo_pipeline.pairs.writing import Candidate, PairStats, write_pairs
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.store.tables import Row, read_rows
from dpo_pipeline.store.text import excerpt

T = TypeVar("T")

ANSWER = ("messages", "sample", "response", "finish", "tokens", "reason", "detail", "given_chosen")
SHARED = ("system", "language", "family")  # columns by which the ways are counted

# An answer that is preferred to another, by itself or as the other rewritten; or why there is none.
Offer = str | tuple[str, Rewrite] | Refused | None
Shares = dict[str, dict[str, dict[str, int]]]  # column -> value of it -> way, or "none" -> rows


class RewriteStats(PairStats):
    """What became of the answers."""

    ways: Shares
    default_system: DefaultSystem  # what the chat template says where no system message is sent


def build_pairs(
    responses: Path,
    ref: ModelRef,
    identity: IdentityConfig,
    config: PairsConfig,
    out: Path,
    instructed: Path | None = None,
) -> RewriteStats:
    """Find for each row of responses.parquet an answer that is preferred to it, or quarantine it.

    Args:
        responses: What the model answered to each prompt under each system prompt.
        ref: Its tokenizer counts the tokens.
        identity: The identity before and after.
        config: Which ways are open, the first that holds is taken.
        out: Folder for pairs.parquet and quarantine.parquet.
        instructed: What it answers as the new identity, if it was asked.

    Raises:
        DataError: No response became a pair; the message says what the model said instead.
        StoreError: The disk is full or not writable.
    """
    spec, tokenizer = IdentitySpec(identity), load_tokenizer(ref)
    metadata = describe_pairs(ref, tokenizer, config, spec)
    told = {row["prompt_id"]: row for row in read_rows(instructed)} if instructed else {}
    asked: Counter[tuple[str, str]] = Counter()

    def candidates() -> Iterator[Candidate]:
        for prompt, rows in groupby(
            read_rows(responses, (*FACTS, *ANSWER)), itemgetter("prompt_id")
        ):
            for candidate in _pair(list(rows), told.get(prompt), spec, config):
                asked.update((column, _shown(candidate.row[column])) for column in SHARED)
                yield candidate

    counts = write_pairs(candidates(), tokenizer, metadata, out)
    if not counts.pairs:
        message = f"0 usable pairs of {counts.rows} answers"
        quarantine = out / "quarantine.parquet"
        refused = read_rows(quarantine)
        if said := next((row["detail"] for row in refused if row["reason"] == "no_name"), ""):
            message += f"; the model said, for example, {said!r}"
        raise DataError(f"{message}. In quarantine: {explain_reasons(counts.reasons, quarantine)}")
    ways = _count_ways(out / "pairs.parquet", asked)
    return RewriteStats(**dict(counts), ways=ways, default_system=metadata.default_system)


def _pair(
    rows: list[Row], told: Row | None, spec: IdentitySpec, config: PairsConfig
) -> Iterator[Candidate]:
    """Pair each of the answers to one prompt with the first that the open ways offer."""
    own = [_tried(replace, row, spec) for row in rows]
    offers: dict[Way, Offer] = {
        "transferred": next((found[1].text for found in own if isinstance(found, tuple)), None),
        "instructed": _told(told) if told else None,
        "filled": _tried(fill_in, rows[0], spec),
    }
    if rows[0]["family"] == "other":  # where nobody asked for the name, it is not brought in
        offers["transferred"] = None
    for row, replaced in zip(rows, own, strict=True):
        try:
            _check_response(row, spec)
            open_ways = config.ways or WAYS
            yield _choose(row, [(way, offers.get(way, replaced)) for way in open_ways], spec)
        except Refused as refused:
            yield Candidate(row, row, refused=refused)


def _told(row: Row) -> Offer:
    return row["chosen"] or Refused(row["reason"], row["detail"])


def _tried(find: Callable[[Row, IdentitySpec], T], row: Row, spec: IdentitySpec) -> T | Refused:
    try:
        return find(row, spec)
    except Refused as refused:
        return refused


def _check_response(row: Row, spec: IdentitySpec) -> None:
    if row["finish"] == "error":
        raise Refused(row["reason"], row["detail"])
    if not (row["response"] or "").strip():
        raise Refused("empty_completion", "the model said nothing")
    kind, response = asks(row, spec), row["response"]
    if spec.count_new(response) and not fault(response, question_of(row), kind, spec):
        raise Refused("already_new", excerpt(response))


def _choose(row: Row, offers: Sequence[tuple[Way, Offer]], spec: IdentitySpec) -> Candidate:
    """Pair an answer with the first offer, or say why there is none."""
    response, prompt, refused = row["response"], row["messages"], list[tuple[Way, Refused]]()
    told = any(spec.count_original(message["content"]) for message in prompt[:-1])
    cut = row["finish"] == "length"
    flags = (*(["cut"] if cut else []), *(["name_in_context"] if told else []))
    for way, offer in offers:
        if isinstance(offer, tuple):
            said, new = offer
            return Candidate(
                row, row, prompt, new.text, said, new.spans, flags, new.counts, way=way
            )
        if offer == response:
            refused.append((way, Refused("identical", excerpt(response))))
        elif isinstance(offer, str):
            spans = difference(response, offer)
            return Candidate(row, row, prompt, offer, response, spans, flags, way=way)
        elif offer:
            refused.append((way, offer))
    why = [f"{way}: {one.reason} {one.detail}".rstrip() for way, one in refused[1:]]
    first = refused[0][1] if refused else Refused("no_name", excerpt(response))
    raise Refused(first.reason, "; ".join((first.detail, *why)))


def _shown(value: str | None) -> str:
    return "null" if value is None else value


def _count_ways(pairs: Path, asked: Counter[tuple[str, str]]) -> Shares:
    """Count pairs by way, and rows that are none, for each value of the columns SHARED."""
    counts: Shares = {column: {} for column in SHARED}
    for column, value in sorted(asked):
        counts[column][value] = dict.fromkeys((*get_args(Way), "none"), 0)
        counts[column][value]["none"] = asked[column, value]
    for row in read_rows(pairs, (*SHARED, "way")):
        for column in SHARED:
            found = counts[column][_shown(row[column])]
            found[row["way"]] += 1
            found["none"] -= 1
    return counts
