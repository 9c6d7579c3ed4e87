"""Preference data sets that already exist, turned into the same pairs.

A row holds two answers, chosen and rejected. Their prompt is told as messages, as a text, as an
Alpaca instruction, or not at all where both answers repeat the whole conversation.
"""

import re
from itertools import chain, islice
from pathlib import Path

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.rewriting import difference
from dpo_pipeline.models.chat_templates import Message
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.pairs.schema import FACTS, describe_pairs, explain_reasons
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.pairs.writing import Candidate, PairStats, said, write_pairs
from dpo_pipeline.prompts.classification import language
from dpo_pipeline.prompts.quarantine import Refused, Unreadable, checked_text
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.shapes import read_turns
from dpo_pipeline.prompts.sources import PEEK, Origin, SourceRef, read_source
from dpo_pipeline.prompts.split import normalise, read_split, split_wordings
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.tables import Row
from dpo_pipeline.store.text import common_start, excerpt

_PROMPTS = ("prompt", "question", "query", "messages", "conversations", "instruction")
_EXPECTED = (
    "chosen and rejected, and the prompt as prompt (text or messages), messages, conversations, "
    "or instruction (and input), or inside chosen and rejected"
)
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


class PreferenceStats(PairStats):
    """What became of a preference data set."""

    repeated_prompts: int  # rows whose prompt came before
    left_out: int  # rows beyond the limit
    source: Origin


def prepare_preferences(
    source: SourceRef, config: PromptsConfig, pairs: PairsConfig, ref: ModelRef, out: Path
) -> PreferenceStats:
    """Turn a preference data set into pairs.parquet and quarantine.parquet, for a model to train.

    Raises:
        DataError: The columns are no preference data set's, or too few rows can be used.
        StoreError: The disk is full or not writable.
    """
    splits, planned = _plan(source, config)
    tokenizer = load_tokenizer(ref)
    metadata = describe_pairs(ref, tokenizer, pairs).model_copy(update={"source": source.digest})
    candidates = (
        _candidate(source, position, row, splits[position], config, not tokenizer.chat_template)
        for position, row in read_source(source, config.split)
        if position in splits
    )
    counts = write_pairs(candidates, tokenizer, metadata, out)
    if counts.quarantine > config.max_quarantine * counts.rows or not counts.pairs:
        raise DataError(
            f"{counts.pairs} usable pairs of {counts.rows} rows of {source.location}; at "
            f"most {config.max_quarantine:.0%} may be left (prompts.max_quarantine). In "
            "quarantine: " + explain_reasons(counts.reasons, out / "quarantine.parquet")
        )
    return PreferenceStats(**dict(counts), **planned, source=source.origin)


def _plan(source: SourceRef, config: PromptsConfig) -> tuple[dict[int, str], dict[str, int]]:
    """Choose the rows within the limit and their side of the split, by prompt.

    Prompts of one wording stay on one side. Where rows name one, held out wins.
    """
    asked: dict[int, tuple[str, str, str | None]] = {}  # digest, wording, split of its own
    rows = read_source(source, config.split)
    head = list(islice(rows, PEEK))
    named = [_named(row, config) for _, row in head if isinstance(row, dict)]
    found = sorted({name for row in named for name in row})
    if named and (missing := sorted({"chosen", "rejected"} - set(found))):
        raise DataError(
            f"{source.location} has no {' and no '.join(missing)}: found {found}, expected "
            f'{_EXPECTED}. Name yours in prompts.columns, e.g. {{"chosen": "better"}}'
        )
    for position, row in chain(head, rows):
        try:
            prompt, _, _ = parse_row(row, config)
        except Refused:
            asked[position] = ("", "", None)
            continue
        wording = normalise("\n".join(m["content"] for m in prompt if m["role"] == "user"))
        own = read_split(_named(row, config).get("split")) if isinstance(row, dict) else None
        asked[position] = (digest_of(prompt), wording, own)
    if not asked:
        raise DataError(f"{source.location} holds no rows; name another source or split")

    drawn = sorted(asked, key=lambda position: digest_of([config.seed, position]))
    kept = sorted(drawn[: config.limit])
    read = {position: asked[position] for position in kept if asked[position][0]}
    wordings = [wording for _, wording, _ in read.values()]
    sides = split_wordings(wordings, [own for _, _, own in read.values()], config)
    splits = dict.fromkeys(kept, "train")
    splits |= {position: side for position, (_, side) in zip(read, sides, strict=True)}
    repeated = len(read) - len({prompt for prompt, _, _ in read.values()})
    return splits, {"repeated_prompts": repeated, "left_out": len(asked) - len(kept)}


def _named(row: Row, config: PromptsConfig) -> Row:
    return {**row, **{want: row[have] for want, have in config.columns.items() if have in row}}


def _candidate(
    source: SourceRef, position: int, row: object, split: str, config: PromptsConfig, plain: bool
) -> Candidate:
    facts: Row = dict.fromkeys(FACTS) | {
        "id": digest_of([source.digest, position]),
        "source_row": position,
        "family": "other",
        "split": split,
    }
    kept = row if isinstance(row, dict) else {"text": getattr(row, "text", row)}
    try:
        prompt, chosen, rejected = parse_row(row, config, plain)
    except Refused as refused:
        reason = "bad_row" if refused.reason in ("wrong_type", "invalid_text") else refused.reason
        return Candidate(facts, kept, refused=Refused(reason, refused.detail))
    turns = [m for m in prompt if m["role"] != "system"]
    facts |= {
        "prompt_id": digest_of(turns),
        "language": language(turns[-1]["content"]),
        "turns": sum(m["role"] == "user" for m in turns),
        "system": next((m["content"] for m in prompt if m["role"] == "system"), None),
    }
    return Candidate(facts, kept, prompt, chosen, rejected, difference(rejected, chosen))


def parse_row(
    row: object, config: PromptsConfig, plain: bool = False
) -> tuple[list[Message], str, str]:
    """Read prompt, chosen and rejected from a row of any supported shape.

    The prompt ends with the user. Plain, for a model without a chat template, gives the input of
    Alpaca its heading.

    Raises:
        Refused: The row holds no pair.
    """
    if isinstance(row, Unreadable):
        raise Refused("bad_row", f"{row.reason}: {row.detail}")
    if not isinstance(row, dict):
        raise Refused("bad_row", f"expected columns, found {type(row).__name__}")
    row = _named(row, config)
    read_split(row.get("split"))  # or refuse it
    prompt = _told_prompt(row, plain)
    chosen, rejected = (_side(row, name, told=bool(prompt)) for name in ("chosen", "rejected"))
    if not prompt and len(chosen) == len(rejected) == 1:
        prompt, chosen, rejected = _cut(chosen[0]["content"], rejected[0]["content"])
    elif not prompt or (len(chosen) > 1 and len(rejected) > 1):
        shared = chosen[: min(common_start(chosen, rejected), len(chosen) - 1, len(rejected) - 1)]
        if prompt and shared and shared[-1] != prompt[-1]:
            raise Refused("prompt_mismatch", f"prompt and answers differ: {_end(shared)}")
        prompt, chosen, rejected = shared, chosen[len(shared) :], rejected[len(shared) :]
    if row.get("system") and prompt and prompt[0]["role"] != "system":
        prompt = [{"role": "system", "content": _text(row["system"])}, *prompt]
    if not prompt or prompt[-1]["role"] != "user":
        raise Refused(
            "prompt_mismatch", f"no message of the user before the answer: {_end(prompt)}"
        )
    if not prompt[-1]["content"].strip():
        raise Refused("empty_prompt", "the last turn of the user is blank")
    for side in (chosen, rejected):
        if [message["role"] for message in side] != ["assistant"]:
            raise Refused("prompt_mismatch", f"more than an answer is left: {_end(side)}")
    if config.context == "last":
        prompt = [*(m for m in prompt[:1] if m["role"] == "system"), prompt[-1]]
    return prompt, chosen[0]["content"], rejected[0]["content"]


def _told_prompt(row: Row, plain: bool) -> list[Message]:
    """Read the prompt from its own columns; empty where there are none: the answers hold it."""
    told = [name for name in _PROMPTS if name in row]
    if not told:
        return []
    name = next((name for name in told if row[name] not in (None, "", [])), None)
    if name is None:
        raise Refused("empty_prompt", f"{told[0]} is {row[told[0]]!r}")
    if not isinstance(row[name], str) and name != "instruction":
        return _messages(row[name], name)
    text = _text(row[name])
    if name == "instruction" and row.get("input"):
        heading = "### Input:\n" if plain else ""
        text += f"\n\n{heading}{_text(row['input'])}"
    return [{"role": "user", "content": text}]


def _side(row: Row, name: str, told: bool) -> list[Message]:
    """Read an answer: one message, or the whole conversation."""
    value = row.get(name)
    if value is None:
        raise Refused("empty_completion", f"no {name}")
    if not isinstance(value, str):
        return _messages([value] if isinstance(value, dict) else value, name)
    before, *turns = _SPEAKER.split(checked_text(value))
    if told or not turns or before.strip():
        return said(value)
    roles = ("user" if who == "Human" else "assistant" for who in turns[::2])
    return [{"role": who, "content": text} for who, text in zip(roles, turns[1::2], strict=True)]


def _cut(chosen: str, rejected: str) -> tuple[list[Message], ...]:
    """Take the words that two texts begin with as their prompt, as TRL does."""
    if chosen == rejected:
        raise Refused("identical", excerpt(chosen))
    start = common_start(chosen, rejected)
    start = max((m.start() for m in re.finditer(r"\s", chosen[:start])), default=0)
    prompt: list[Message] = [{"role": "user", "content": chosen[:start]}] if start else []
    return prompt, said(chosen[start:].lstrip()), said(rejected[start:].lstrip())


def _messages(value: object, name: str) -> list[Message]:
    return [{**m, "content": checked_text(m["content"])} for m in read_turns(value, name, {})]


def _text(content: object) -> str:
    if not isinstance(content, str):
        raise Refused("wrong_type", f"expected text, found {type(content).__name__}")
    return checked_text(content)


def _end(messages: list[Message]) -> str:
    return excerpt(messages[-1]["content"]) if messages else "nothing"
