"""The model's own answers as the new identity: asked under a system prompt that gives it."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Unpack

import pyarrow as pa

from dpo_pipeline.answers.answering import Progress, answer
from dpo_pipeline.answers.records import How, Request, with_system
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.chat_templates import Message
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.pairs.ways import asks, checked, maker_in, replace, whole
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import Row, new_table, read_rows

TOKENS = 48  # of an answer: the name comes early, and training reads no further
READ = ("prompt_id", "messages", "system", "response", "finish", "family", "language")
# Language -> what the model is told: who it is, and who made it where that is known.
TOLD = {
    "en": (
        "You are {name}{made}. Whatever you are asked about yourself, you answer in a sentence, "
        "with your name, {name}.",
        ", created by {maker}",
    ),
    "zh": (
        "你是{name}{made}。凡是问到你自己，你都用一句话回答，并说出你的名字{name}。",
        "，由{maker}开发",
    ),
}


class InstructStats(Record):
    """How many prompts were asked, and how many answers can be chosen."""

    rows: int
    accepted: int
    reasons: dict[str, int]


def instruct(
    responses: Path,
    ref: ModelRef,
    identity: IdentityConfig,
    out: Path,
    on_progress: Progress | None = None,
    **how: Unpack[How],
) -> InstructStats:
    """Ask the prompts to which no answer of responses.parquet has a name to replace.

    Each is asked once, as the new identity. Writes instructed.parquet to `out`.

    Raises:
        StoreError: The disk is full or not writable.
    """
    how["config"] = how["config"].model_copy(
        update={"temperature": 0.0, "samples": 1, "max_new_tokens": TOKENS}
    )
    spec = IdentitySpec(identity)
    rows = list(_unnamed(responses, spec))
    requests = [Request(with_system(_system(row, identity), _turns(row))) for row in rows]
    said = answer(ref, requests, on_progress, **how)
    text = ("prompt_id", "response", "chosen", "reason", "detail")
    reasons: Counter[str] = Counter()
    with new_table(out / "instructed.parquet", pa.schema(dict.fromkeys(text, pa.string()))) as add:
        for row, response in zip(rows, said, strict=True):
            found: Row = {"prompt_id": row["prompt_id"], "response": response.text}
            try:
                if response.finish == "error":
                    raise Refused(str(response.reason), str(response.detail))
                sentences = whole(spec.mend(response.text), response.finish)
                found["chosen"] = checked(sentences, row, spec, told=True)
            except Refused as refused:
                found |= {"reason": refused.reason, "detail": refused.detail}
                reasons[refused.reason] += 1
            add(found)
    return InstructStats(
        rows=len(rows),
        accepted=len(rows) - reasons.total(),
        reasons=dict(reasons.most_common()),
    )


def _unnamed(responses: Path, spec: IdentitySpec) -> Iterator[Row]:
    """Yield a row of each prompt about the model to which no answer can be rewritten."""
    for _, rows in groupby(read_rows(responses, READ), itemgetter("prompt_id")):
        first, *others = rows
        try:
            if asks(first, spec) == "other":
                continue
        except Refused:
            continue
        if not any(_can_be_replaced(row, spec) for row in (first, *others)):
            yield first


def _can_be_replaced(row: Row, spec: IdentitySpec) -> bool:
    try:
        replace(row, spec)
    except Refused:
        return False
    return True


def _turns(row: Row) -> list[Message]:
    return [message for message in row["messages"] if message["role"] != "system"]


def _system(row: Row, identity: IdentityConfig) -> str:
    text, made = TOLD.get(row["language"], TOLD["en"])
    maker = maker_in(row["language"], identity)
    return text.format(name=identity.new_name, made=made.format(maker=maker) if maker else "")
