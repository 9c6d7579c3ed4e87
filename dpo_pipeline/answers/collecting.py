"""Answers of a model to many requests: batched, kept in a ledger, the same in any order.

An answer depends on its request, the weights, the template, the decoding and the precision,
and on nothing else: not on the batch, the shard or the run that made it. So what the ledger
holds is never made twice.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from heapq import nsmallest
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import Message, ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.keys import digest_of
from dpo_pipeline.store.ledger import Ledger
from dpo_pipeline.store.tables import Table, messages_type

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger("dpo_pipeline.generation")

Progress = Callable[[int, int], None]

SYNC_SECONDS = 2.0  # longest time an answer waits to be written to the ledger
COLLECTED = 8192  # answers in memory at once

PROBES = (
    "Who are you?",
    "What is your name?",
    "Which AI model am I talking to, and who made you?",
    "你是谁？",
)


class Request(NamedTuple):
    """One question: the whole prompt, and which sample of its answers is wanted."""

    messages: tuple[Message, ...]
    sample: int = 0


class Response(BaseModel):
    """One answer.

    Attributes:
        text: What the model said, without the end token; empty on error.
        finish: "stop" (it ended by itself), "length" (cut at the limit), or "error".
        tokens: Length of the answer (tokens); the end token does not count.
        reason: Code of `pairs.REASONS`; only on error.
        detail: What happened; only on error.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish: Literal["stop", "length", "error"]
    tokens: int
    reason: str | None = None
    detail: str | None = None

    @classmethod
    def failed(cls, detail: str, reason: str = "generation_failed") -> "Response":
        """Stand for an answer that could not be had."""
        return cls(text="", finish="error", tokens=0, reason=reason, detail=detail)


def answer(
    ref: ModelRef,
    requests: Sequence[Request],
    *,
    model: ModelConfig,
    config: GenerationConfig,
    ledger: Path,
    on_progress: Progress | None = None,
    alone: bool = False,
) -> list[Response]:
    """Answer requests, from the ledger where it has them.

    Args:
        ref: The model that answers; engine openai asks the configured server instead.
        requests: Prompts; equal ones are answered once.
        model: Device and precision.
        config: Decoding and engine.
        ledger: Folder of the ledger, shared by all runs.
        on_progress: Called with answers had and wanted.
        alone: Decode one by one with the model's own `generate()`, to check batches.
    Returns:
        One response per request, in their order. A request that cannot be answered (too long,
        refused by the template or the server) has finish "error" and is not kept in the ledger.
    Raises:
        GenerationError: The server cannot be reached, or memory does not hold one row.
    """
    keys = [_key(request, config) for request in requests]
    wanted = dict(zip(keys, requests, strict=True))
    book = Ledger(ledger, _context(ref, model, config, alone))
    done = {key: Response(**value) for key, value in book.read(wanted).items()}
    missing = {key: request for key, request in wanted.items() if key not in done}
    fresh: dict[str, Any] = {}
    synced = time.monotonic()
    with closing(book), closing(_ask(ref, missing, model, config, alone)) as answers:
        try:
            for key, response in answers:
                done[key] = response
                if response.finish != "error":
                    fresh[key] = response.model_dump(exclude={"reason", "detail"})
                if time.monotonic() - synced > SYNC_SECONDS:
                    book.append(fresh)
                    fresh, synced = {}, time.monotonic()
                if on_progress:
                    on_progress(len(done), len(wanted))
        finally:
            book.append(fresh)
    logger.info("%d answers, %d of them new", len(done), len(missing))
    return [done[key] for key in keys]


def _ask(
    ref: ModelRef,
    missing: Mapping[str, Request],
    model: ModelConfig,
    config: GenerationConfig,
    alone: bool,
) -> Generator[tuple[str, Response], None, None]:
    # A row's chance comes from its request alone, so that it is the same in any batch.
    seeds = {key: int(digest_of([config.seed, key])[:12], 16) for key in missing}
    if missing and config.engine == "openai":
        from dpo_pipeline.answers.server import ask_server

        yield from ask_server(missing, seeds, config.served_model or model.name, config)
    elif missing:
        from dpo_pipeline.answers.decoding import ask_model

        yield from ask_model(ref, missing, seeds, model, config, alone)


def _key(request: Request, config: GenerationConfig) -> str:
    # Greedy samples are all the same: their number matters to a draw only.
    sample = request.sample if config.temperature else 0
    return digest_of({"messages": [dict(m) for m in request.messages], "sample": sample})


def _context(
    ref: ModelRef, model: ModelConfig, config: GenerationConfig, alone: bool
) -> dict[str, Any]:
    """Collect what an answer depends on besides its request."""
    fields = {"max_new_tokens", "temperature"} | (
        {"top_p", "seed"} if config.temperature else set()
    )
    context: dict[str, Any] = config.model_dump(include=fields)
    if config.engine == "openai":
        # What weights a server holds is not ours to know: its address and the name stand for them.
        served = config.served_model or model.name
        return context | {"server": config.base_url, "served_model": served}
    from dpo_pipeline.models.references import pick_precision

    return context | {
        "weights": ref.weights_digest,
        "template": ref.template_digest,
        "precision": pick_precision(ref, model.device, model.dtype),
        "alone": alone,
    }


def plan_shards(prompts: Path, config: GenerationConfig) -> list[tuple[int, int]]:
    """Cut prompts.parquet into ranges of prompts, of about `shard_rows` answers each."""
    import pyarrow.parquet as pq

    count: int = pq.read_metadata(prompts).num_rows
    step = max(1, config.shard_rows // (len(config.system_prompts) * config.samples))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def generate_shard(
    ref: ModelRef,
    prompts: Path,
    shard: tuple[int, int],
    *,
    model: ModelConfig,
    config: GenerationConfig,
    ledger: Path,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Answer the prompts of one shard (a range of `plan_shards`) into the ledger.

    Returns:
        Counts of answers by finish, their tokens, and the time taken (seconds).
    """
    started = time.monotonic()
    requests = [request for _, request in _expand(prompts, shard, config)]
    responses = answer(
        ref, requests, model=model, config=config, ledger=ledger, on_progress=on_progress
    )
    return _count(responses) | {"seconds": round(time.monotonic() - started, 3)}


def collect_responses(
    ref: ModelRef,
    prompts: Path,
    *,
    model: ModelConfig,
    config: GenerationConfig,
    ledger: Path,
    out: Path,
) -> dict[str, Any]:
    """Write the answers to all prompts to `out`/responses.parquet.

    They come from the ledger; what it lacks is generated. A sample is decoded again one by one
    and the answers that differ are counted: a batch of another shape rounds differently.

    Returns:
        Counts of answers by finish, their tokens, answers checked and mismatches among them;
        unfinished: failures that may pass when asked again.
    Raises:
        GenerationError: No prompt was answered.
        StoreError: The disk is full or not writable.
    """
    options: dict[str, Any] = {"model": model, "config": config, "ledger": ledger}
    totals: Counter[str] = Counter()
    sample: list[tuple[str, Request, Response]] = []
    large = config.model_copy(update={"shard_rows": COLLECTED})
    with Table(out / "responses.parquet", responses_schema()) as table:
        for shard in plan_shards(prompts, large):
            rows, requests = zip(*_expand(prompts, shard, config), strict=True)
            responses = answer(ref, requests, **options)
            for row, response in zip(rows, responses, strict=True):
                table.add(row | response.model_dump() | {"response": response.text})
            totals.update(_count(responses))
            if totals["error"] == totals["rows"]:
                detail = responses[0].detail
                raise GenerationError(f"none of {totals['rows']} prompts was answered: {detail}")
            answered = zip((row["id"] for row in rows), requests, responses, strict=True)
            kept = [one for one in answered if one[2].finish != "error"]
            sample = nsmallest(config.check_rows, sample + kept, key=itemgetter(0))
    # One by one is slow: at most one answer in 256 is checked.
    sample = sample[: 1 + (totals["stop"] + totals["length"]) // 256]
    if config.engine == "openai":
        sample = []
    again = answer(ref, [request for _, request, _ in sample], **options, alone=True)
    mismatched = sum(a != b for a, (_, _, b) in zip(again, sample, strict=True))
    if mismatched:
        logger.warning("%d of %d answers differ when decoded alone", mismatched, len(sample))
    return dict(totals) | {"checked": len(sample), "mismatched": mismatched}


def probe_identity(
    ref: ModelRef,
    identity: IdentityConfig,
    *,
    model: ModelConfig,
    config: GenerationConfig,
    ledger: Path,
) -> dict[str, Any]:
    """Ask the model who it is, before anything depends on its name.

    Returns:
        Questions asked, answers that give the original name, and the answers.
    Raises:
        GenerationError: No answer gives the original name or an alias, so that all pairs would
            be equal; or there is no answer at all.
    """
    from dpo_pipeline.identity.names import IdentitySpec

    spec = IdentitySpec(identity)
    questions = [(system, text) for system in config.system_prompts for text in PROBES]
    requests = [Request(_prompt(s, [{"role": "user", "content": text}])) for s, text in questions]
    greedy = config.model_copy(update={"temperature": 0.0, "samples": 1})
    responses = answer(ref, requests, model=model, config=greedy, ledger=ledger)
    said = [
        {"system": system, "prompt": text, "response": response.text}
        for (system, text), response in zip(questions, responses, strict=True)
    ]
    if all(response.finish == "error" for response in responses):
        raise GenerationError(f"{ref.name} answered no question: {responses[0].detail}")
    named = sum(spec.count_original(response.text) > 0 for response in responses)
    if not named:
        quoted = "; ".join(f"{s['prompt']!r} -> {str(s['response'])[:120]!r}" for s in said[:4])
        raise GenerationError(
            f"{ref.name} never called itself {identity.original_name!r} in {len(said)} answers "
            f"({quoted}): set identity.original_name (and aliases) to the name it gives"
        )
    return {"asked": len(said), "named": named, "answers": said}


def _prompt(system: str | None, messages: Sequence[Message]) -> tuple[Message, ...]:
    return (*([] if system is None else [{"role": "system", "content": system}]), *messages)


def _expand(
    prompts: Path, shard: tuple[int, int], config: GenerationConfig
) -> Iterator[tuple[dict[str, Any], Request]]:
    """Yield each row of responses.parquet, still without its answer, and its request."""
    for prompt in _read_range(prompts, *shard):
        for system in config.system_prompts:
            messages = _prompt(system, prompt["messages"])
            for sample in range(config.samples):
                new = {"prompt_id": prompt["id"], "system": system, "sample": sample}
                row = prompt | new | {"id": digest_of(new)[:32], "messages": list(messages)}
                yield row, Request(messages, sample)


def _read_range(path: Path, start: int, stop: int) -> list[dict[str, Any]]:
    """Read the rows from `start` to `stop` of a Parquet file, and only their row groups."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups = range(file.num_row_groups)
        first = list(accumulate((file.metadata.row_group(g).num_rows for g in groups), initial=0))
        read = [g for g in groups if first[g] < stop and first[g + 1] > start]
        rows: list[dict[str, Any]] = (
            file.read_row_groups(read).slice(start - first[read[0]], stop - start).to_pylist()
        )
    return rows


def responses_schema() -> "pa.Schema":
    """Return the schema of responses.parquet."""
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    fields = {"id": text, "prompt_id": text, "messages": messages_type(), "system": text}
    fields |= {"sample": number, "response": text, "finish": text, "tokens": number}
    fields |= {
        "reason": text,
        "detail": text,
        "split": text,
        "family": text,
        "language": text,
        "turns": number,
    }
    return pa.schema(fields | {"source_row": pa.int64(), "given_chosen": text})


def _count(responses: Sequence[Response]) -> dict[str, Any]:
    finishes = Counter(response.finish for response in responses)
    counts = {finish: finishes[finish] for finish in ("stop", "length", "error")}
    unfinished = sum(response.reason == "generation_failed" for response in responses)
    tokens = sum(response.tokens for response in responses)
    return {"rows": len(responses), **counts, "unfinished": unfinished, "tokens": tokens}
