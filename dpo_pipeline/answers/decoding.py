"""The decoder in process: many prompts at once through one model, each as if it were alone.

Rows share forward passes but not fate: a row that ends leaves its slot at once and the next
prompt takes it, so no step is spent on finished answers. Each row's keys and values start at
column 0 of its slot, so no padding stands between prompt and answer.
"""

import logging
import random
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import GenerationConfig as Shipped
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from dpo_pipeline.answers.records import Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.models.chat_templates import encode, end_tokens
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig

logger = logging.getLogger(__name__)

# Prompts enter when a part in so many of the slots is free: prefill is faster for several.
REFILL = 8

# Threads of a task runner take turns at the one model that a process holds.
_turn = threading.Lock()


@dataclass
class Row:
    """A prompt on its way: its tokens, its answer so far, its own source of chance.

    Attributes:
        key: Name of the request.
        prompt: Token ids, at least one.
        ends: Tokens that end an answer; they are not part of it.
        limit: Longest answer (tokens).
        seed: Seed of its draws.
    """

    key: str
    prompt: Sequence[int]
    ends: Sequence[int]
    limit: int
    seed: int = 0
    answer: list[int] = field(default_factory=list)
    stopped: bool = False
    chance: random.Random = field(default_factory=random.Random)

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
    ref: ModelRef,
    requests: Mapping[str, Request],
    seeds: Mapping[str, int],
    model: ModelConfig,
    config: GenerationConfig,
    alone: bool,
) -> Iterator[tuple[str, Response]]:
    """Answer requests; yield each key and its answer as it ends."""
    with _turn:
        tokenizer, network = _load(ref, model.device, model.dtype)
        ends, rows = end_tokens(ref, tokenizer), []
        positions = getattr(network.config, "max_position_embeddings", None) or sys.maxsize
        for key, request in requests.items():
            try:
                prompt = encode(tokenizer, request.messages)
            except (TemplateError, ValueError) as error:
                yield key, Response.failed(str(error), "template_error")
                continue
            if 0 < len(prompt) < positions:
                limit = min(config.max_new_tokens, positions - len(prompt))
                rows.append(Row(key, prompt, ends, limit, seeds[key]))
            else:
                detail = f"{len(prompt)} tokens, and the model takes 1 to {positions - 1}"
                yield key, Response.failed(detail, "too_long" if prompt else "template_error")
        if alone:
            config = config.model_copy(update={"batch_tokens": 1})
        slots = not alone and slots_agree(network, [row.prompt for row in rows[:1] + rows[-1:]])
        for row in decode(network, rows, config, slots):
            text = str(tokenizer.decode(row.answer, skip_special_tokens=True))
            finish: Literal["stop", "length"] = "stop" if row.stopped else "length"
            yield row.key, Response(text=text, finish=finish, tokens=len(row.answer))


@lru_cache(maxsize=1)
def _load(
    ref: ModelRef, device: str, dtype: Literal["auto", "float32", "bfloat16"]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    network: Any = load_model(ref, device, dtype)
    # A model may ship sampling or a repetition penalty: what decides is our configuration.
    network.generation_config = Shipped()
    return load_tokenizer(ref), network


def decode(
    model: PreTrainedModel, rows: Sequence[Row], config: GenerationConfig, slots: bool = True
) -> Iterator[Row]:
    """Decode rows; yield each when it ends.

    When memory runs out, the rows in flight start again, half as many at once; the answers
    are the same.

    Args:
        model: In eval mode, with a neutral generation config.
        rows: Prompts; those of similar length share a batch.
        config: Budget of a batch, temperature and nucleus.
        slots: False decodes left-padded batches with the model's own `generate()`.
    Raises:
        GenerationError: Memory does not hold even one row.
    """
    waiting = sorted(rows, key=lambda row: -len(row.prompt))
    while waiting:
        # Otherwise a few long prompts would cost all others room.
        longest = len(waiting[0].prompt)
        group = deque(row.restart() for row in waiting if 2 * len(row.prompt) > longest)
        waiting = waiting[len(group) :]
        capacity = longest + config.max_new_tokens
        size = max(1, min(len(group), config.batch_tokens // capacity))
        fits = slots and _looks_back(model, capacity)
        while group:
            batch = (Slots if fits else Padded)(model, size, capacity, config)
            try:
                yield from batch.run(group)
            except RuntimeError as error:
                if not _out_of_memory(error):
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
            if model.device.type == "cuda":
                torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _looks_back(model: PreTrainedModel, capacity: int) -> bool:
    """Tell whether every layer is attention that sees `capacity` tokens back."""
    return all(
        type(layer) is DynamicLayer
        or (isinstance(layer, DynamicSlidingWindowLayer) and layer.sliding_window >= capacity)
        for layer in DynamicCache(config=model.config).layers
    )


@torch.inference_mode()
def slots_agree(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> bool:
    """Check on a few tokens that slots decode as the plain forward does.

    Some architectures read their cache, mask or positions in a way that slots do not serve, and
    not all of them fail aloud: each token must be the plain forward's choice, up to rounding.
    """
    # Of different length, as equal ones would hide an error in masks and positions.
    tails = [prompt[5 * i - 12 :] for i, prompt in enumerate(prompts[:2])]
    rows = deque(Row("", tail, ends=(), limit=4) for tail in tails)
    try:
        for row in Slots(model, len(rows), 16, GenerationConfig()).run(rows):
            whole = torch.tensor([[*row.prompt, *row.answer]], device=model.device)
            logits = model(input_ids=whole, use_cache=False).logits[0, -5:-1].float()
            best, chosen = logits.amax(-1), logits.gather(-1, whole[0, -4:, None])[:, 0]
            if bool((best - chosen > 0.05 * (best - logits.amin(-1))).any()):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        logger.info("slots do not serve this architecture: %s", error)
        return False
    return True


class Slots:
    """Rows in flight; active row i lies in slot i, so that a step works on a dense slice."""

    def __init__(
        self, model: PreTrainedModel, size: int, capacity: int, config: GenerationConfig
    ) -> None:
        self.model, self.size, self.config = model, size, config
        self.active: list[Row] = []
        self.cache = SlotCache(size, capacity)

    @torch.inference_mode()
    def run(self, queue: deque[Row]) -> Iterator[Row]:
        """Decode all rows of the queue, taking them from it as slots fall free."""
        while queue or self.active:
            free = self.size - len(self.active)
            if queue and free * REFILL >= self.size:
                self._enter([queue.popleft() for _ in range(min(free, len(queue)))])
            yield from self._step()

    def _enter(self, rows: list[Row]) -> None:
        """Prefill all of each prompt but its last token, which is the first step's input."""
        start = len(self.active)
        self.active += rows
        longest = max(1, *(len(row.prompt) - 1 for row in rows))
        # Padding on the right needs no mask: attention looks left only.
        ids = [[*row.prompt[:-1], *[0] * (longest + 1 - len(row.prompt))] for row in rows]
        filled: Any = DynamicCache()
        self.model(
            input_ids=torch.tensor(ids, device=self.model.device),
            past_key_values=filled,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache.enter(start, [(layer.keys, layer.values) for layer in filled.layers])

    def _step(self) -> Iterator[Row]:
        """Give each active row its next token, and let go of those that end."""
        device = self.model.device
        last = [row.answer[-1] if row.answer else row.prompt[-1] for row in self.active]
        at = torch.tensor([len(r.prompt) + len(r.answer) - 1 for r in self.active], device=device)
        logits = self.model(
            input_ids=torch.tensor(last, device=device)[:, None],
            attention_mask=self.cache.aim(at),
            position_ids=at[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        tokens = choose(logits, self.active, self.config)
        for i, row in reversed(list(enumerate(self.active))):
            if row.take(tokens[i]):
                self.active[i] = self.active[-1]
                self.active.pop()
                self.cache.move(len(self.active), i)
                yield row


class SlotCache(Cache):
    """Keys and values of all slots: a pair per layer of shape (slots, heads, capacity, size)."""

    def __init__(self, slots: int, capacity: int) -> None:
        super().__init__(layers=[])
        self.slots, self.capacity = slots, capacity
        self.pairs: list[list[torch.Tensor]] = []
        self.at = self.rows = torch.empty(0)
        self.width = 0

    def aim(self, at: torch.Tensor) -> torch.Tensor:
        """Set the column of each active row's next token; return the attention mask."""
        self.at, self.rows = at, torch.arange(len(at), device=at.device)
        self.width = int(at.max()) + 1
        ahead = torch.arange(self.width, device=at.device) > at[:, None]
        # Added to the scores: of a mask of truth values, plain (eager) attention makes 0 and 1.
        dtype = self.pairs[0][0].dtype
        added = torch.zeros(ahead.shape, dtype=dtype, device=at.device)
        return added.masked_fill_(ahead, torch.finfo(dtype).min)[:, None, None, :]

    def enter(self, start: int, filled: Sequence[Sequence[torch.Tensor]]) -> None:
        """Copy new rows' keys and values to the slots from `start` on."""
        if not self.pairs:
            # Zeroed, as what lies under the mask is multiplied by 0, and 0 x NaN is NaN.
            self.pairs = [
                [t.new_zeros(self.slots, t.shape[1], self.capacity, t.shape[3]) for t in pair]
                for pair in filled
            ]
        for pair, new in zip(self.pairs, filled, strict=True):
            for buffer, tensor in zip(pair, new, strict=True):
                buffer[start : start + len(tensor), :, : tensor.shape[2]] = tensor

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        if source != target:
            for buffer in (buffer for pair in self.pairs for buffer in pair):
                buffer[target] = buffer[source]

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token per active row and return all that they may look at."""
        keys, values = self.pairs[layer_idx]
        keys[self.rows, :, self.at] = key_states[:, :, 0]
        values[self.rows, :, self.at] = value_states[:, :, 0]
        count = len(self.rows)
        return keys[:count, :, : self.width], values[:count, :, : self.width]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns in use."""
        return self.width


class Padded:
    """Rows in left-padded batches through the model's own `generate()`: slower, for any model."""

    def __init__(
        self, model: PreTrainedModel, size: int, capacity: int, config: GenerationConfig
    ) -> None:
        self.model, self.size, self.config = model, size, config
        self.active: list[Row] = []

    @torch.inference_mode()
    def run(self, queue: deque[Row]) -> Iterator[Row]:
        """Decode all rows of the queue."""
        model: Any = self.model
        while queue:
            self.active = [queue.popleft() for _ in range(min(self.size, len(queue)))]
            width = max(len(row.prompt) for row in self.active)
            ends = list(self.active[0].ends)
            pads = [width - len(row.prompt) for row in self.active]
            ids = [[ends[0]] * n + [*row.prompt] for n, row in zip(pads, self.active, strict=True)]
            mask = [[0] * n + [1] * (width - n) for n in pads]
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


def choose(logits: torch.Tensor, rows: Sequence[Row], config: GenerationConfig) -> list[int]:
    """Choose the next token of each row: the likeliest, or one drawn by the row's own chance.

    Args:
        logits: Shape (rows, vocabulary).
        rows: Their rows; a draw takes one number from each row's generator.
        config: Temperature and nucleus.
    """
    if config.temperature == 0:
        chosen: list[int] = logits.max(dim=-1).indices.tolist()  # argmax is slow in bfloat16
        return chosen
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
    chosen = at[:, 0].clamp(max=mass.shape[-1] - 1).tolist()
    return chosen
