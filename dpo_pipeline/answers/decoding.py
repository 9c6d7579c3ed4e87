"""The decoder in process: many prompts at once through one model, each as if it were alone.

Rows share forward passes but not fate: a row that ends leaves at once and a waiting prompt takes
its place, so no step is spent on finished answers. All are padded on the left, as the model's own
`generate()` has them, so that positions and windows are those that its architecture expects.
"""

import logging
import random
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch.nn.functional import pad
from transformers import DynamicCache, LogitsProcessorList, PreTrainedModel
from transformers import GenerationConfig as Shipped

from dpo_pipeline.answers.records import How, Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.models.chat_templates import encode, end_tokens
from dpo_pipeline.models.loading import kept_model
from dpo_pipeline.models.references import ModelRef

logger = logging.getLogger(__name__)

# Prompts enter when a part in so many of the places is free: prefill is faster for several.
REFILL = 8
# Threads of a task runner take turns at the one model that a process holds.
_turn = threading.Lock()


@dataclass
class Row:
    """A prompt on its way: its tokens, its answer so far, its own source of chance."""

    key: str  # of the request
    prompt: Sequence[int]  # token ids, at least one
    ends: Sequence[int]  # tokens that end an answer; they are not part of it
    limit: int  # longest answer (tokens)
    seed: int = 0
    answer: list[int] = field(default_factory=list)
    stopped: bool = False
    chance: random.Random = field(default_factory=random.Random)

    @property
    def length(self) -> int:
        """Count the tokens so far, of the prompt and the answer."""
        return len(self.prompt) + len(self.answer)

    def restart(self) -> "Row":
        """Forget the answer so far; the same chance comes again."""
        self.answer, self.stopped, self.chance = [], False, random.Random(self.seed)
        return self

    def take(self, token: int) -> bool:
        """Add the next token; tell whether the answer is complete."""
        self.stopped = token in self.ends
        if not self.stopped:
            self.answer.append(token)
        return self.stopped or len(self.answer) >= self.limit


def ask_model(
    ref: ModelRef, requests: Mapping[str, Request], seeds: Mapping[str, int], how: How, alone: bool
) -> Iterator[tuple[str, Response]]:
    """Answer requests; yield each key and its answer as it ends."""
    config = how["config"]
    with _turn:
        network: Any
        tokenizer, network = kept_model(ref, how["model"].device, how["model"].dtype)
        # A model may ship sampling or a repetition penalty: what decides is our configuration.
        network.generation_config = Shipped()
        ends, rows = end_tokens(ref, tokenizer), []
        positions = getattr(network.config, "max_position_embeddings", None) or sys.maxsize
        for key, request in requests.items():
            try:
                prompt = encode(tokenizer, request.messages, request.bare)
            except (TemplateError, ValueError) as error:
                yield key, Response.failed(str(error), "template_error")
                continue
            if 0 < len(prompt) < positions:
                limit = min(config.max_new_tokens, positions - len(prompt))
                rows.append(Row(key, prompt, ends, limit, seeds[key]))
            else:
                detail = f"{len(prompt)} tokens, and the model takes 1 to {positions - 1}"
                yield key, Response.failed(detail, "too_long" if prompt else "template_error")
        for row in decode(network, rows, config, alone):
            text = str(tokenizer.decode(row.answer, skip_special_tokens=True))
            end: Literal["stop", "length"] = "stop" if row.stopped else "length"
            yield row.key, Response(text=text, finish=end, tokens=len(row.answer))


def decode(
    model: PreTrainedModel, rows: Sequence[Row], config: GenerationConfig, alone: bool = False
) -> Iterator[Row]:
    """Decode rows, those of similar length in one batch; yield each when it ends.

    The model is in eval mode, with a neutral generation config; alone, each row goes through
    its own `generate()`. When memory runs out, the rows in flight start again, half as many at
    once; the answers are the same.

    Raises:
        GenerationError: Memory does not hold even one row.
    """
    waiting = sorted(rows, key=lambda row: -len(row.prompt))
    engine = Continuous if waiting and not alone and rows_join(model, waiting) else Batches
    while waiting:
        # Otherwise a few long prompts would cost all others room.
        longest = len(waiting[0].prompt)
        group = deque(row.restart() for row in waiting if 2 * len(row.prompt) > longest)
        waiting = waiting[len(group) :]
        room = config.batch_tokens // (longest + config.max_new_tokens)
        size = 1 if alone else max(1, min(len(group), room))
        while group:
            batch = engine(model, size, config)
            try:
                yield from batch.run(group)
            except RuntimeError as error:
                full = isinstance(error, torch.OutOfMemoryError)
                if not full and "can't allocate memory" not in str(error):
                    raise
                if size == 1:
                    raise GenerationError(
                        f"out of memory with one prompt of {longest} tokens and max_new_tokens="
                        f"{config.max_new_tokens}: lower max_new_tokens, or use a smaller model"
                    ) from error
                group.extendleft(row.restart() for row in batch.active)
                size //= 2
                logger.warning("out of memory: going on with %d rows at once", size)
            del batch
            torch.cuda.empty_cache()


@torch.inference_mode()
def rows_join(model: PreTrainedModel, rows: Sequence[Row]) -> bool:
    """Check on a few tokens that rows may leave and join a batch of this model.

    They may where its cache is keys and values of each token, and nothing else. Some
    architectures carry a state or keep no cache, and not all of them fail aloud: each token must
    be the plain forward's choice, up to rounding.
    """
    # Of different length: equal ones would hide an error in masks and positions.
    tails = [row.prompt[5 * i - 12 :] for i, row in enumerate((rows[0], rows[-1], rows[0]))]
    few = deque(Row("", tail, ends=(), limit=2 + 2 * i) for i, tail in enumerate(tails))
    try:
        for row in Continuous(model, 2, GenerationConfig()).run(few):
            whole = torch.tensor([[*row.prompt, *row.answer]], device=model.device)
            logits = model(input_ids=whole, use_cache=False).logits[0, -1 - row.limit : -1].float()
            chosen = logits.gather(-1, whole[0, -row.limit :, None])[:, 0]
            best = logits.amax(-1)
            if bool((best - chosen > 0.05 * (best - logits.amin(-1))).any()):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        logger.info("rows of this architecture do not share a cache: %s", error)
        return False
    return True


@dataclass
class Continuous:
    """Rows in flight over one cache, in whose batch they leave and join."""

    model: PreTrainedModel
    size: int
    config: GenerationConfig
    active: list[Row] = field(default_factory=list)
    cache: DynamicCache = field(default_factory=DynamicCache)

    @torch.inference_mode()
    def run(self, queue: deque[Row]) -> Iterator[Row]:
        """Decode all rows of the queue, taking them from it as places fall free."""
        while queue or self.active:
            free = self.size - len(self.active)
            if queue and free * REFILL >= self.size:
                rows = [queue.popleft() for _ in range(min(free, len(queue)))]
                self.active += rows
                cache = DynamicCache()
                tokens = self._next(rows, _padded(rows), cache)
                self._join(cache)
            else:
                tokens = self._next(self.active, [[r.answer[-1]] for r in self.active], self.cache)
            yield from self._take(tokens)

    def _next(self, rows: Sequence[Row], ids: list[list[int]], cache: DynamicCache) -> list[int]:
        """Run the tokens that the cache lacks, and choose the next token of each row."""
        device, width = self.model.device, max(row.length for row in rows)
        pads = torch.tensor([width - row.length for row in rows], device=device)
        mask = (torch.arange(width, device=device) >= pads[:, None]).long()
        logits = self.model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -len(ids[0]) :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return choose(logits, rows, self.config)

    def _join(self, cache: DynamicCache) -> None:
        """Put the cache of new rows under that of the others."""
        if not self.cache.layers:
            self.cache = cache
            return
        pairs: list[tuple[Any, Any]] = list(zip(self.cache.layers, cache.layers, strict=True))
        width = max(layer.keys.shape[2] for layer in pairs[0])
        for old, new in pairs:
            for name in ("keys", "values"):
                both = (getattr(layer, name) for layer in (old, new))
                wide = [pad(tensor, (0, 0, width - tensor.shape[2], 0)) for tensor in both]
                setattr(old, name, torch.cat(wide))

    def _take(self, tokens: Sequence[int]) -> Iterator[Row]:
        """Give the last rows their tokens; let go of rows that end, and of columns left empty."""
        start = len(self.active) - len(tokens)
        ended = [i for i, token in enumerate(tokens, start) if self.active[i].take(token)]
        if not ended:
            return
        kept = [i for i in range(len(self.active)) if i not in ended]
        done, self.active = ([self.active[i] for i in some] for some in (ended, kept))
        width = max((row.length - 1 for row in self.active), default=0)
        self.cache = self.cache if kept else DynamicCache()
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = (t[kept, :, -width:] for t in (layer.keys, layer.values))
        yield from done


@dataclass
class Batches:
    """Rows in batches through the model's own `generate()`: slower, and for any model."""

    model: PreTrainedModel
    size: int
    config: GenerationConfig
    active: list[Row] = field(default_factory=list)

    @torch.inference_mode()
    def run(self, queue: deque[Row]) -> Iterator[Row]:
        """Decode all rows of the queue."""
        model: Any = self.model
        while queue:
            self.active = [queue.popleft() for _ in range(min(self.size, len(queue)))]
            ends, ids = list(self.active[0].ends), _padded(self.active)
            width = len(ids[0])
            mask = [[0] * (width - r.length) + [1] * r.length for r in self.active]
            tokens = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                logits_processor=LogitsProcessorList([self._leave_chosen]),
                max_new_tokens=max(row.limit for row in self.active),
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )
            for row, taken in zip(self.active, tokens[:, width:].tolist(), strict=True):
                any(row.take(token) for token in taken)  # up to the first end
            done, self.active = self.active, []
            yield from done

    def _leave_chosen(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave only the drawn token of each row for the greedy search to find."""
        if self.config.temperature == 0:
            return scores
        chosen = torch.tensor(choose(scores, self.active, self.config), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def _padded(rows: Sequence[Row]) -> list[list[int]]:
    """Fill prompts up on the left to the longest; the mask hides what stands there."""
    width = max(len(row.prompt) for row in rows)
    return [[0] * (width - len(row.prompt)) + [*row.prompt] for row in rows]


def choose(logits: torch.Tensor, rows: Sequence[Row], config: GenerationConfig) -> list[int]:
    """Choose the next token of each row: the likeliest, or one drawn by the row's own chance.

    Logits are of shape (rows, vocabulary); a draw takes one number from each row's generator.
    """
    if config.temperature == 0:
        return list(logits.max(dim=-1).indices.tolist())  # argmax is slow in bfloat16
    mass = (logits.double() / config.temperature).softmax(-1)
    if config.top_p < 1:
        ordered = mass.sort(dim=-1, descending=True).values
        outside = ordered.cumsum(-1) - ordered >= config.top_p
        mass = mass.where(mass >= ordered.masked_fill(outside, 1.0).amin(-1, keepdim=True), 0.0)
    # In the order of the vocabulary: sorted, two tokens of nearly equal mass would change places
    # by rounding, and with it the token drawn.
    mass = mass.cumsum(-1)
    drawn = torch.tensor([[row.chance.random()] for row in rows], dtype=mass.dtype)
    at = torch.searchsorted(mass, drawn.to(mass.device) * mass[:, -1:], right=True)
    return list(at[:, 0].clamp(max=mass.shape[-1] - 1).tolist())
