"""Requests answered: from the ledger where it has them, else by the model.

An answer depends on its request, the weights, the template, the decoding and the precision,
and on nothing else. So what the ledger holds is never made twice.

Requests are asked in shards of a fixed size, wherever that is done: the batches are then the same,
and with them how they round.
"""

import logging
import time
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import closing
from typing import Unpack

from pydantic import JsonValue, ValidationError

from dpo_pipeline.answers.records import How, Request, Response, Shard
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig, Precision
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.ledger import Ledger

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
SYNC_SECONDS = 2.0  # longest time an answer waits to be written to the ledger


def answer(
    ref: ModelRef,
    requests: Sequence[Request],
    on_progress: Progress | None = None,
    *,
    alone: bool = False,
    **how: Unpack[How],
) -> list[Response]:
    """Answer requests, from the ledger where it has them.

    Args:
        ref: The model that answers.
        requests: Prompts; equal ones are answered once.
        on_progress: Called with the number of answers had, and of those wanted.
        alone: Decode one by one with the model's own `generate()`, to check batches.
        how: On what, with which decoding, where the ledger lies, and who else answers.
    Returns:
        One response per request, in their order. A request that cannot be answered (too long,
        refused by the template or the server) has finish "error" and is not kept in the ledger.
    Raises:
        GenerationError: The server cannot be reached, or memory does not hold one row.
    """
    keys = [_key(request, how["config"]) for request in requests]
    wanted = dict(zip(keys, requests, strict=True))
    book = Ledger(how["ledger"], _context(ref, how, alone))
    done: dict[str, Response] = {}
    for key, value in book.read(wanted).items():
        try:
            done[key] = Response.model_validate(value)
        except ValidationError:
            logger.info("an answer of another version is made again")
    shards, had = _cut(wanted, done, how["config"].shard_rows), len(done)
    fresh: dict[str, dict[str, JsonValue]] = {}
    synced = time.monotonic()
    with closing(book), closing(_ask_all(ref, shards, how, alone)) as answers:
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
    logger.info("%d answers, %d of them new", len(done), len(done) - had)
    return [done[key] for key in keys]


def _cut(wanted: Shard, done: Container[str], rows: int) -> list[Shard]:
    """Cut requests into shards, then leave out what is had: an interrupted run cuts alike."""
    keys = list(wanted)
    parts = (keys[start : start + rows] for start in range(0, len(keys), rows))
    shards = ({key: wanted[key] for key in part if key not in done} for part in parts)
    return list(filter(None, shards))


def _ask_all(
    ref: ModelRef, shards: Sequence[Shard], how: How, alone: bool
) -> Generator[tuple[str, Response], None, None]:
    if shards and (spread := how.get("spread")):
        model = how["model"]
        if how["config"].engine != "openai":  # computed as here, whatever hardware is there
            model = model.model_copy(update={"dtype": _precision(ref, model)})
        for answered in spread(ref, shards, {**how, "model": model}, alone):
            yield from answered.items()
    else:
        for shard in shards:
            yield from ask(ref, shard, how, alone)


def ask(
    ref: ModelRef, shard: Shard, how: How, alone: bool
) -> Generator[tuple[str, Response], None, None]:
    """Answer a shard in this process, past the ledger; yield each key and its answer as it ends."""
    # A row's chance comes from its request alone, so that it is the same in any batch.
    seeds = {key: int(digest_of([how["config"].seed, key])[:12], 16) for key in shard}
    if how["config"].engine == "openai":
        from dpo_pipeline.answers.server import ask_server

        yield from ask_server(shard, seeds, how)
    else:
        from dpo_pipeline.answers.decoding import ask_model

        yield from ask_model(ref, shard, seeds, how, alone)


def _key(request: Request, config: GenerationConfig) -> str:
    # Greedy samples are all the same: their number matters to a draw only.
    sample = request.sample if config.temperature else 0
    asked = {"messages": [dict(m) for m in request.messages], "sample": sample}
    return digest_of(asked | ({"bare": True} if request.bare else {}))


def _context(ref: ModelRef, how: How, alone: bool) -> dict[str, JsonValue]:
    """Collect what an answer depends on besides its request."""
    model, config = how["model"], how["config"]
    read = {"max_new_tokens", "temperature", *(("top_p", "seed") if config.temperature else ())}
    context: dict[str, JsonValue] = config.model_dump(include=read)
    if config.engine == "openai":
        # What weights a server holds is not ours to know: its address and the name stand for them.
        return context | {"server": config.base_url, "served_model": config.served(model.name)}
    context |= {"weights": ref.weights_digest, "template": ref.template_digest}
    return context | {"precision": _precision(ref, model), "alone": alone}


def _precision(ref: ModelRef, model: ModelConfig) -> Precision:
    from dpo_pipeline.models.loading import pick_precision

    return pick_precision(ref, model.device, model.dtype)
