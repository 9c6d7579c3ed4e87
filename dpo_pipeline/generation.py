"""Answers of a model to many requests: batched, kept in a ledger, the same in any order.

An answer depends on its request, the weights, the template, the decoding and the precision,
and on nothing else: not on the batch, the shard or the run that made it. So what the ledger
holds is never made twice.
"""

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.config import GenerationConfig, IdentityConfig, ModelConfig
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.keys import digest_of
from dpo_pipeline.ledger import Ledger
from dpo_pipeline.models import ModelRef

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dpo_pipeline.decoding import Row

logger = logging.getLogger("dpo_pipeline.generation")

Progress = Callable[[int, int], None]

SYNC_SECONDS = 2.0  # longest time an answer waits to be written to the ledger
COLLECT_ROWS = 8192  # answers in memory at once, and rows of a Parquet row group

PROBES = (
    "Who are you?",
    "What is your name?",
    "Which AI model am I talking to, and who made you?",
    "你是谁？",
)

# Threads of a task runner take turns at the one model that a process holds.
_turn = threading.Lock()


class Request(NamedTuple):
    """One question: the whole prompt, and which sample of its answers is wanted."""

    messages: tuple[Mapping[str, str], ...]
    sample: int = 0


class Response(BaseModel):
    """One answer.

    Attributes:
        text: What the model said, without the end token; empty on error.
        finish: "stop" (it ended by itself), "length" (cut at the limit), or "error".
        tokens: Length of the answer (tokens); the end token does not count.
        reason: Why there is no answer; only on error.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish: Literal["stop", "length", "error"]
    tokens: int
    reason: str | None = None


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
        GenerationError: No request could be answered, the server cannot be reached, or memory
            does not hold one row.
    """
    keys = [_key(request, config) for request in requests]
    wanted = dict(zip(keys, requests, strict=True))
    context = _context(ref, model, config) | ({"alone": True} if alone else {})
    with Ledger(ledger, context) as book:
        done = {key: Response(**value) for key, value in book.read(wanted).items()}
        missing = {key: r for key, r in wanted.items() if key not in done}
        fresh: dict[str, Any] = {}
        synced = time.monotonic()
        engine = _ask_server if config.engine == "openai" else _ask_model
        with closing(engine(ref, missing, model, config, alone)) as answers:
            for key, response in answers:
                done[key] = response
                if response.finish != "error":
                    fresh[key] = response.model_dump(exclude={"reason"})
                if on_progress:
                    on_progress(len(done), len(wanted))
                if time.monotonic() - synced > SYNC_SECONDS:
                    book.append(fresh)
                    fresh, synced = {}, time.monotonic()
        book.append(fresh)
    logger.info("%d answers, %d of them new", len(done), len(missing))
    failed = [response for response in done.values() if response.finish == "error"]
    if failed and len(failed) == len(done):
        raise GenerationError(f"none of {len(failed)} prompts was answered: {failed[0].reason}")
    return [done[key] for key in keys]


def plan_shards(prompts: Path, config: GenerationConfig) -> list[tuple[int, int]]:
    """Cut prompts.parquet into ranges of prompts, of about `shard_rows` answers each."""
    import pyarrow.parquet as pq

    count = pq.read_metadata(prompts).num_rows
    step = max(1, config.shard_rows // _fan_out(config))
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
        Counts of answers by finish, their tokens, answers checked and mismatches among them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    totals: Counter[str] = Counter()
    sample: list[tuple[Request, Response]] = []
    count = pq.read_metadata(prompts).num_rows
    step = max(1, COLLECT_ROWS // _fan_out(config))
    # One by one is slow: a large `check_rows` checks at most one answer in 256.
    checks = min(config.check_rows, 1 + count * _fan_out(config) // 256)
    every = max(1, count * _fan_out(config) // max(1, checks))
    options: dict[str, Any] = {"model": model, "config": config, "ledger": ledger}
    with pq.ParquetWriter(out / "responses.parquet", _schema()) as writer:
        for start in range(0, count, step):
            rows = list(_expand(prompts, (start, min(start + step, count)), config))
            responses = answer(ref, [request for _, request in rows], **options)
            filled = [
                row | response.model_dump(exclude={"text"}) | {"response": response.text}
                for (row, _), response in zip(rows, responses, strict=True)
            ]
            writer.write_table(pa.Table.from_pylist(filled, schema=_schema()))
            for i in range(-totals["rows"] % every, len(rows), every):
                sample.append((rows[i][1], responses[i]))
            totals.update(_count(responses))
    sample = [pair for pair in sample if pair[1].finish != "error"][:checks]
    if config.engine == "openai" or not sample:
        return dict(totals) | {"checked": 0, "mismatched": 0}
    again = answer(ref, [request for request, _ in sample], **options, alone=True)
    mismatched = sum(a != b for a, (_, b) in zip(again, sample, strict=True))
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
        GenerationError: No answer gives the original name or an alias; all pairs would be equal.
    """
    from dpo_pipeline.identity import IdentitySpec

    spec = IdentitySpec(identity)
    greedy = config.model_copy(update={"temperature": 0.0, "samples": 1})
    requests = [
        Request(_prompt(system, [{"role": "user", "content": question}]))
        for system in config.system_prompts
        for question in PROBES
    ]
    responses = answer(ref, requests, model=model, config=greedy, ledger=ledger)
    named = sum(spec.count_original(response.text) > 0 for response in responses)
    said = [
        {"prompt": request.messages[-1]["content"], "response": response.text}
        for request, response in zip(requests, responses, strict=True)
    ]
    if not named:
        quoted = "; ".join(f"{s['prompt']!r} -> {s['response'][:120]!r}" for s in said[:4])
        raise GenerationError(
            f"{ref.name} never called itself {identity.original_name!r} in {len(said)} answers "
            f"({quoted}): set identity.original_name (and aliases) to the name it gives"
        )
    return {"asked": len(said), "named": named, "answers": said}


def _prompt(
    system: str | None, messages: Sequence[Mapping[str, str]]
) -> tuple[Mapping[str, str], ...]:
    first = () if system is None else ({"role": "system", "content": system},)
    return (*first, *messages)


def _fan_out(config: GenerationConfig) -> int:
    return len(config.system_prompts) * config.samples


def _expand(
    prompts: Path, shard: tuple[int, int], config: GenerationConfig
) -> Iterator[tuple[dict[str, Any], Request]]:
    """Yield every row of responses.parquet, still without its answer, and its request."""
    import pyarrow.parquet as pq

    table = pq.read_table(prompts).slice(shard[0], shard[1] - shard[0])
    for prompt in table.to_pylist():
        for system in config.system_prompts:
            for sample in range(config.samples):
                messages = _prompt(system, prompt["messages"])
                name = digest_of([prompt["id"], system, sample])[:32]
                new = {"id": name, "prompt_id": prompt["id"], "messages": list(messages)}
                row = prompt | new | {"system": system, "sample": sample}
                yield row, Request(messages, sample)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    message = pa.struct([("role", text), ("content", text)])
    fields = {"id": text, "prompt_id": text, "messages": pa.list_(message), "system": text}
    fields |= {"sample": number, "response": text, "finish": text, "tokens": number}
    fields |= {"reason": text, "split": text, "family": text, "language": text, "turns": number}
    return pa.schema(fields | {"source_row": pa.int64(), "given_chosen": text})


def _count(responses: Sequence[Response]) -> dict[str, Any]:
    finishes = Counter(response.finish for response in responses)
    kinds = {kind: finishes[kind] for kind in ("stop", "length", "error")}
    return {"rows": len(responses), "tokens": sum(r.tokens for r in responses)} | kinds


def _key(request: Request, config: GenerationConfig) -> str:
    # Greedy samples are all the same: their number matters to a draw only.
    sample = request.sample if config.temperature else 0
    return digest_of({"messages": [dict(m) for m in request.messages], "sample": sample})


def _seed(key: str, config: GenerationConfig) -> int:
    return int.from_bytes(hashlib.sha256(f"{config.seed} {key}".encode()).digest()[:6])


def _context(ref: ModelRef, model: ModelConfig, config: GenerationConfig) -> dict[str, Any]:
    """Collect what an answer depends on besides its request."""
    fields = {"max_new_tokens", "temperature"} | (
        {"top_p", "seed"} if config.temperature else set()
    )
    context: dict[str, Any] = config.model_dump(include=fields)
    if config.engine == "openai":
        # What weights a server holds is not ours to know: its address and the name stand for them.
        server = {"server": config.base_url, "served_model": config.served_model or model.name}
        return context | server
    from transformers import AutoConfig

    from dpo_pipeline.models import pick_device, pick_dtype

    precision: str = model.dtype
    if precision == "auto":
        precision = pick_dtype(pick_device(model.device), AutoConfig.from_pretrained(ref.path))
    weights, template = ref.weights_digest, ref.template_digest
    return context | {"weights": weights, "template": template, "precision": precision}


def _ask_server(
    ref: ModelRef,
    missing: Mapping[str, Request],
    model: ModelConfig,
    config: GenerationConfig,
    alone: bool,
) -> Iterator[tuple[str, Response]]:
    from dpo_pipeline.server import complete

    shared = {
        "model": config.served_model or model.name,
        "max_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p if config.temperature else 1.0,
    }
    bodies = {
        key: shared
        | {"messages": [dict(m) for m in request.messages]}
        | ({"seed": _seed(key, config)} if config.temperature else {})
        for key, request in missing.items()
    }
    for key, fields in complete(bodies, config):
        yield key, Response(**fields)


def _ask_model(
    ref: ModelRef,
    missing: Mapping[str, Request],
    model: ModelConfig,
    config: GenerationConfig,
    alone: bool,
) -> Iterator[tuple[str, Response]]:
    if not missing:
        return
    with _turn:
        from dpo_pipeline.decoding import Decoding, decode, slots_agree
        from dpo_pipeline.models import end_tokens

        tokenizer, network = _load(ref, model.device, model.dtype)
        rows: list[Row] = []
        for key, request in missing.items():
            prepared = _prepare(key, request, tokenizer, network, config)
            if isinstance(prepared, Response):
                yield key, prepared
            else:
                rows.append(prepared)
        how = Decoding(
            ends=end_tokens(ref, tokenizer),
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            batch_tokens=1 if alone else config.batch_tokens,
        )
        slots = not alone and slots_agree(network, [row.prompt for row in (*rows[:1], *rows[-1:])])
        for row in decode(network, rows, how, slots):
            text = tokenizer.decode(row.answer, skip_special_tokens=True)
            finish: Literal["stop", "length"] = "stop" if row.stopped else "length"
            yield row.key, Response(text=text, finish=finish, tokens=len(row.answer))


def _prepare(
    key: str,
    request: Request,
    tokenizer: "PreTrainedTokenizerBase",
    network: "PreTrainedModel",
    config: GenerationConfig,
) -> "Row | Response":
    """Turn a request into tokens, or say why it cannot be asked."""
    from jinja2 import TemplateError

    from dpo_pipeline.decoding import Row
    from dpo_pipeline.models import encode

    try:
        prompt = encode(tokenizer, request.messages)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        reason = f"the chat template refuses these messages: {error}"
        return Response(text="", finish="error", tokens=0, reason=reason)
    positions = getattr(network.config, "max_position_embeddings", None) or len(prompt) + 10**6
    limit = min(config.max_new_tokens, positions - len(prompt))
    if limit < 1 or not prompt:
        reason = f"a prompt of {len(prompt)} tokens; the model takes 1 to {positions - 1}"
        return Response(text="", finish="error", tokens=0, reason=reason)
    return Row(key, prompt, limit, _seed(key, config))


@lru_cache(maxsize=1)
def _load(
    ref: ModelRef, device: str, dtype: Literal["auto", "float32", "bfloat16"]
) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    from transformers import GenerationConfig as Shipped

    from dpo_pipeline.models import load_model, load_tokenizer

    network = load_model(ref, device, dtype)
    # A model may ship sampling or a repetition penalty: what decides is our configuration.
    network.generation_config = Shipped()
    return load_tokenizer(ref), network
