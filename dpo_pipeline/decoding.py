"""The decoder in process: many prompts at once through one model, each as if it were alone.

Rows share forward passes but not fate: a row that ends leaves its slot at once and the next
prompt takes it, so no step is spent on finished answers. Keys and values lie in one buffer per
layer, a row's from column 0 on, so nothing is padded but the tail of a step's attention.
"""

import logging
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from dpo_pipeline.errors import GenerationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("dpo_pipeline.decoding")

# New prompts enter when this share of the slots is free: their prefill fills a matrix product.
REFILL = 8


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen and when an answer ends.

    Attributes:
        ends: Tokens that end an answer; they are not part of it.
        max_new_tokens: Longest answer (tokens).
        temperature: 0 is greedy.
        top_p: Nucleus mass, read when sampling.
        batch_tokens: Budget of a batch: rows x (longest prompt + max_new_tokens).
    """

    ends: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    batch_tokens: int = 16384


@dataclass
class Row:
    """A prompt on its way: its tokens, its answer so far, its own source of chance."""

    key: str
    prompt: Sequence[int]
    limit: int
    seed: int = 0
    answer: list[int] = field(default_factory=list)
    stopped: bool = False
    chance: random.Random = field(default_factory=random.Random)

    def restart(self) -> "Row":
        """Forget the answer so far; the same chance comes again."""
        self.answer, self.stopped, self.chance = [], False, random.Random(self.seed)
        return self

    def take(self, token: int, ends: tuple[int, ...]) -> bool:
        """Add the next token; tell whether the answer is complete."""
        self.stopped = token in ends
        if not self.stopped:
            self.answer.append(token)
        return self.stopped or len(self.answer) >= self.limit


def decode(
    model: "PreTrainedModel", rows: Sequence[Row], how: Decoding, slots: bool = True
) -> Iterator[Row]:
    """Decode rows, in the order in which they end.

    When memory runs out, the rows in flight start again in batches half as large; the answers
    are the same.

    Args:
        model: In eval mode, with a neutral generation config.
        rows: Prompts of at least one token.
        how: Choice and end of tokens.
        slots: False decodes left-padded batches with the model's own `generate()`.
    Raises:
        GenerationError: Memory does not hold even one row.
    """
    waiting = sorted(rows, key=lambda row: -len(row.prompt))
    while waiting:
        # Prompts of similar length share a buffer: a few long ones do not cost all others room.
        longest = len(waiting[0].prompt)
        group = deque(row.restart() for row in waiting if 2 * len(row.prompt) > longest)
        waiting = waiting[len(group) :]
        capacity = longest + how.max_new_tokens
        size = max(1, min(len(group), how.batch_tokens // capacity))
        fits = slots and keeps_all(model, capacity)
        while group:
            batch = Slots(model, size, capacity, how) if fits else Padded(model, size, how)
            try:
                yield from batch.run(group)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise GenerationError(
                        f"out of memory with one prompt of {longest} tokens and "
                        f"max_new_tokens={how.max_new_tokens}: lower max_new_tokens, or use a "
                        "smaller model or model.dtype bfloat16"
                    ) from error
                group.extendleft(row.restart() for row in batch.active)
                size //= 2
                logger.warning("out of memory: going on with %d rows at once", size)
            del batch
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Tell an allocation that failed, on GPU or CPU, from other runtime errors."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def keeps_all(model: "PreTrainedModel", capacity: int) -> bool:
    """Tell whether every layer is attention that looks back over `capacity` tokens."""
    layers = DynamicCache(config=model.config).layers
    return all(
        type(layer) is DynamicLayer
        or (isinstance(layer, DynamicSlidingWindowLayer) and layer.sliding_window >= capacity)
        for layer in layers
    )


@torch.inference_mode()
def slots_agree(model: "PreTrainedModel", prompts: Sequence[Sequence[int]]) -> bool:
    """Check on a few tokens that slots decode as the plain forward does.

    An architecture may read its cache, mask or positions in a way that slots do not serve, and
    some would go wrong without an error: each chosen token must be the plain forward's choice,
    up to rounding.

    Args:
        model: The model.
        prompts: Two prompts of different length show the most.
    """
    rows = [Row("", prompt[:12], limit=4) for prompt in prompts]
    how = Decoding(ends=(), max_new_tokens=4)
    try:
        for row in Slots(model, len(rows), 16, how).run(deque(rows)):
            whole = torch.tensor([[*row.prompt, *row.answer]], device=model.device)
            logits = model(input_ids=whole, use_cache=False).logits[0, -5:-1].float()
            best, chosen = logits.amax(-1), logits.gather(-1, whole[0, -4:, None])[:, 0]
            if bool((best - chosen > 0.05 * (best - logits.amin(-1))).any()):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        logger.info("slots do not serve this architecture: %s", error)
        return False
    return True


class Padded:
    """Rows in left-padded batches through the model's own `generate()`: slower, for any model."""

    def __init__(self, model: "PreTrainedModel", size: int, how: Decoding) -> None:
        self.model, self.size, self.how = model, size, how
        self.active: list[Row] = []

    @torch.inference_mode()
    def run(self, queue: deque[Row]) -> Iterator[Row]:
        """Decode all rows of the queue."""
        while queue:
            self.active = [queue.popleft() for _ in range(min(self.size, len(queue)))]
            width, pad = max(len(row.prompt) for row in self.active), self.how.ends[0]
            padded = [[pad] * (width - len(r.prompt)) + [*r.prompt] for r in self.active]
            mask = [[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in self.active]
            tokens = self.model.generate(
                input_ids=torch.tensor(padded, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                logits_processor=LogitsProcessorList([self._choose]),
                generation_config=GenerationConfig(
                    max_new_tokens=max(row.limit for row in self.active),
                    do_sample=False,
                    eos_token_id=list(self.how.ends),
                    pad_token_id=pad,
                ),
            )
            for row, taken in zip(self.active, tokens[:, width:].tolist(), strict=True):
                for token in taken:
                    if row.take(token, self.how.ends):
                        break
            done, self.active = self.active, []
            yield from done

    def _choose(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leave only the chosen token of each row for the greedy search to find."""
        if self.how.temperature == 0:
            return scores
        chosen = torch.tensor(choose(scores, self.active, self.how), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


class Slots:
    """Rows in flight; active row i lies in slot i, so a step works on a dense slice."""

    def __init__(self, model: "PreTrainedModel", size: int, capacity: int, how: Decoding) -> None:
        self.model, self.size, self.how = model, size, how
        self.active: list[Row] = []
        self.cache = SlotCache(size, capacity)

    @torch.inference_mode()
    def run(self, queue: deque[Row]) -> Iterator[Row]:
        """Decode all rows of the queue, taking them from it as slots fall free."""
        while queue or self.active:
            free = self.size - len(self.active)
            if queue and (free * REFILL >= self.size or not self.active):
                self._enter([queue.popleft() for _ in range(min(free, len(queue)))])
            yield from self._step()

    def _enter(self, rows: list[Row]) -> None:
        """Prefill all of each prompt but its last token, which is the first step's input."""
        start = len(self.active)
        self.active += rows
        longest = max(len(row.prompt) for row in rows) - 1
        if longest == 0:
            return
        # Padding on the right needs no mask: attention is causal and looks left only.
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.prompt) - 1] = torch.tensor(row.prompt[:-1])
        filled = DynamicCache()
        self.model(
            input_ids=ids.to(self.model.device), past_key_values=filled, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        self.cache.enter(start, filled)

    def _step(self) -> Iterator[Row]:
        """Give each active row its next token, and let go of those that end."""
        device = self.model.device
        last = [row.answer[-1] if row.answer else row.prompt[-1] for row in self.active]
        at = torch.tensor([len(r.prompt) + len(r.answer) - 1 for r in self.active], device=device)
        self.cache.aim(at)
        logits = self.model(
            input_ids=torch.tensor(last, device=device)[:, None],
            attention_mask=self.cache.mask,
            position_ids=at[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        for i, token in reversed(list(enumerate(choose(logits, self.active, self.how)))):
            row = self.active[i]
            if not row.take(token, self.how.ends):
                continue
            moved = self.active.pop()
            if moved is not row:
                self.active[i] = moved
                self.cache.move(len(self.active), i)
            yield row


def choose(logits: torch.Tensor, rows: Sequence[Row], how: Decoding) -> list[int]:
    """Choose the next token of each row: the likeliest, or one drawn by the row's own chance.

    Args:
        logits: Shape (rows, vocabulary).
        rows: Their rows; a draw takes one number from a row's own generator.
        how: Temperature and nucleus mass.
    """
    if how.temperature == 0:
        chosen: list[int] = logits.argmax(-1).tolist()
        return chosen
    mass = (logits.float() / how.temperature).softmax(-1).double()
    mass, tokens = mass.sort(dim=-1, descending=True, stable=True)
    total = mass.cumsum(-1)
    # The nucleus is the shortest head that holds top_p: up to the first token that reaches it.
    kept = torch.where(total - mass < how.top_p, mass, 0.0).cumsum(-1)
    drawn = torch.tensor([row.chance.random() for row in rows], device=logits.device)
    at = torch.searchsorted(kept, drawn[:, None] * kept[:, -1:], right=True)
    chosen = tokens.gather(-1, at.clamp(max=tokens.shape[-1] - 1))[:, 0].tolist()
    return chosen


class SlotCache(Cache):  # type: ignore[misc]
    """Keys and values of all slots, and where the next token of each row goes."""

    def __init__(self, size: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.size, self.capacity = size, capacity
        self.at = self.rows = self.mask = torch.empty(0)

    def aim(self, at: torch.Tensor) -> None:
        """Set the column of each active row's next token. Shape (rows,)."""
        self.at = at
        self.rows = torch.arange(len(at), device=at.device)
        width = int(at.max()) + 1
        self.mask = (torch.arange(width, device=at.device) <= at[:, None])[:, None, None, :]

    def enter(self, start: int, filled: Any) -> None:
        """Copy the prefilled keys and values of new rows to the slots from `start` on."""
        for i, layer in enumerate(filled.layers):
            if len(self.layers) <= i:
                self.layers.append(SlotLayer(self))
            self.layers[i].enter(start, layer.keys, layer.values)

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        for layer in self.layers:
            layer.keys[target] = layer.keys[source]
            layer.values[target] = layer.values[source]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns in use."""
        return int(self.mask.shape[-1])


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, shape (slots, heads, capacity, head size)."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def enter(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write new rows' prompts; the buffer is zeroed, as 0 x NaN under the mask were NaN."""
        if not self.is_initialized:
            shape = (self.cache.size, keys.shape[1], self.cache.capacity)
            self.keys = keys.new_zeros(*shape, keys.shape[3])
            self.values = values.new_zeros(*shape, values.shape[3])
            self.is_initialized = True
        stop, width = start + keys.shape[0], keys.shape[2]
        self.keys[start:stop, :, :width] = keys
        self.values[start:stop, :, :width] = values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token per active row and return all they may look at."""
        rows, at, width = self.cache.rows, self.cache.at, self.cache.mask.shape[-1]
        self.keys[rows, :, at] = key_states[:, :, 0]
        self.values[rows, :, at] = value_states[:, :, 0]
        return self.keys[: len(rows), :, :width], self.values[: len(rows), :, :width]
