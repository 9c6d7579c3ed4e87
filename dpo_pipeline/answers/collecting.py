"""Answers to all prompts, range by range: the same whatever range, batch or run made them."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import nsmallest
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Unpack

import pyarrow as pa
import pyarrow.parquet as pq

from dpo_pipeline.answers.answering import Progress, answer
from dpo_pipeline.answers.records import How, Request, Response, with_system
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import Row, messages_type, new_table

logger = logging.getLogger(__name__)

COLLECTED = 1 << 15  # answers in memory at once, and spread over workers at once


class AnswerStats(Record):
    """How many answers ended how."""

    rows: int = 0
    stop: int = 0
    length: int = 0
    error: int = 0
    unfinished: int = 0  # errors that may pass
    tokens: int = 0
    checked: int = 0  # answers decoded again one by one
    mismatched: int = 0  # those among them that came out different


def count_answers(responses: Sequence[Response]) -> Counter[str]:
    """Count answers by how they ended, and their tokens."""
    counts: Counter[str] = Counter(response.finish for response in responses)
    counts["rows"] = len(responses)
    counts["unfinished"] = sum(response.reason == "generation_failed" for response in responses)
    counts["tokens"] = sum(response.tokens for response in responses)
    return counts


def plan_ranges(prompts: Path, config: GenerationConfig, answers: int) -> list[tuple[int, int]]:
    """Cut prompts.parquet into ranges of prompts, of about so many answers each."""
    count: int = pq.read_metadata(prompts).num_rows
    step = max(1, answers // _of_each(config))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def collect_responses(
    ref: ModelRef,
    prompts: Path,
    out: Path,
    on_progress: Progress | None = None,
    **how: Unpack[How],
) -> AnswerStats:
    """Write the answers to all prompts to `out`/responses.parquet.

    They come from the ledger; what it lacks is generated. A sample is decoded again one by one
    and the answers that differ are counted: a batch of another shape rounds differently.

    Raises:
        GenerationError: No prompt was answered.
        StoreError: The disk is full or not writable.
    """
    config, totals = how["config"], Counter[str]()
    ranges = plan_ranges(prompts, config, COLLECTED)
    sample: list[tuple[str, Request, Response]] = []
    with new_table(out / "responses.parquet", responses_schema()) as add:
        for part in ranges:
            rows, requests = zip(*_expand(prompts, part, config), strict=True)

            def tell(done: int, _: int, before: int = totals["rows"]) -> None:
                if on_progress:
                    on_progress(before + done, ranges[-1][1] * _of_each(config))

            responses = answer(ref, requests, tell, **how)
            for row, request, response in zip(rows, requests, responses, strict=True):
                add(row | response.model_dump() | {"response": response.text})
                if response.finish != "error":
                    sample.append((row["id"], request, response))
            totals.update(count_answers(responses))
            if totals["error"] == totals["rows"]:
                detail = responses[0].detail
                raise GenerationError(f"none of {totals['rows']} prompts was answered: {detail}")
            sample = nsmallest(config.check_rows, sample, key=itemgetter(0))
    # One by one is slow: at most one answer in 256 is checked.
    most = 1 + (totals["stop"] + totals["length"]) // 256 if config.engine != "openai" else 0
    sample = sample[:most]
    again = answer(ref, [request for _, request, _ in sample], **how, alone=True)
    mismatched = sum(a != b for a, (_, _, b) in zip(again, sample, strict=True))
    if mismatched:
        logger.warning("%d of %d answers differ when decoded alone", mismatched, len(sample))
    return AnswerStats(checked=len(sample), mismatched=mismatched, **totals)


def _of_each(config: GenerationConfig) -> int:
    """Count the answers to each prompt."""
    return config.samples * (1 if config.in_turn else len(config.system_prompts))


def _expand(
    prompts: Path, part: tuple[int, int], config: GenerationConfig
) -> Iterator[tuple[Row, Request]]:
    """Yield each row of responses.parquet, still without its answer, and its request."""
    for number, prompt in enumerate(_read_range(prompts, *part), part[0]):
        systems = config.system_prompts
        for system in [systems[number % len(systems)]] if config.in_turn else systems:
            messages = with_system(system, prompt["messages"])
            for sample in range(config.samples):
                new = {"prompt_id": prompt["id"], "system": system, "sample": sample}
                row = prompt | new | {"id": digest_of(new)[:32], "messages": list(messages)}
                yield row, Request(messages, sample)


def _read_range(path: Path, start: int, stop: int) -> list[Row]:
    """Read the rows from `start` to `stop` of a Parquet file, and only their row groups."""
    with pq.ParquetFile(path) as file:
        groups = range(file.num_row_groups)
        first = list(accumulate((file.metadata.row_group(g).num_rows for g in groups), initial=0))
        read = [g for g in groups if first[g] < stop and first[g + 1] > start]
        table = file.read_row_groups(read).slice(start - first[read[0]], stop - start)
        return list(table.to_pylist())


def responses_schema() -> pa.Schema:
    """Return the schema of responses.parquet."""
    text, number = pa.string(), pa.int32()
    fields = {"id": text, "prompt_id": text, "messages": messages_type(), "system": text}
    fields |= {"sample": number, "response": text, "finish": text, "tokens": number}
    fields |= {"reason": text, "detail": text, "split": text, "family": text, "language": text}
    fields |= {"turns": number, "source_row": pa.int64(), "given_chosen": text}
    return pa.schema(fields)
