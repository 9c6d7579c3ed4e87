"""Build the starter, in a minute or two of one core; or, for learners, a model never trained.

The starter is a real Qwen2 architecture at toy size, with what makes identity editing interesting
in the real ones: a name of two tokens, a chat template that inserts an identity when no system
prompt is given, and an end of turn that is not the padding.
"""

import json
import logging
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_pipeline.errors import ModelError
from dpo_pipeline.starter.corpus import DEFAULT_SYSTEM, NAME, Message, write_conversations
from dpo_pipeline.store.records import Record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    Batch = tuple[torch.Tensor, torch.Tensor]

Progress = Callable[[int, int], None] | None  # takes steps done and to be done
Encoded = tuple[list[int], list[int]]  # token ids, and labels
logger = logging.getLogger(__name__)

CONVERSATIONS = 20_000
VOCABULARY = 1536
SIZES = {
    "model_type": "qwen2",
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "intermediate_size": 256,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
BATCH_TOKENS = 2048
LEARNING_RATE = 0.02
LABEL_SMOOTHING = 0.05
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TURNS = (
    "{% for message in messages %}"
    f"{START}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{END}\n"
    f"{{% endfor %}}{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)
DEFAULT = f"{START}system\n{DEFAULT_SYSTEM}{END}\n"
TEMPLATE = f"{{% if messages[0]['role'] != 'system' %}}{DEFAULT}{{% endif %}}{TURNS}"


class ModelStats(Record):
    """What was built: parameters, and size of the vocabulary."""

    parameters: int
    vocabulary: int


class StarterStats(ModelStats):
    """What the starter was trained on, and its final loss (nats a token)."""

    conversations: int
    tokens: int
    steps: int
    loss: float


def build_starter(
    out: Path, seed: int = 0, on_progress: Progress = None, *, conversations: int = CONVERSATIONS
) -> StarterStats:
    """Train the starter on a corpus of so many conversations; save it in an empty folder.

    The seed is that of corpus and weights: one seed and machine give the same model.
    """
    from transformers import GenerationConfig

    corpus = write_conversations(conversations, seed)
    tokenizer = train_tokenizer(corpus)
    rows = [encode(tokenizer, conversation) for conversation in corpus]
    with seeded(seed):
        model = make_model(tokenizer, SIZES)
        steps, loss = fit(model, make_batches(rows, random.Random(seed)), on_progress)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=128, **ids)
    stats = StarterStats(
        **save(model.eval(), tokenizer, out).model_dump(),
        conversations=len(corpus),
        tokens=sum(len(ids) for ids, _ in rows),
        steps=steps,
        loss=round(loss, 4),
    )
    logger.info("starter: %s", stats)
    return stats


def init_model(config: Path, out: Path, seed: int = 0) -> ModelStats:
    """Initialise a model from a config.json of transformers; save it in an empty folder.

    The tokenizer is a small byte-level one; its size and its tokens replace those of the config.
    The seed is that of the weights and of what the tokenizer is trained on.

    Raises:
        ModelError: The file is no config of a causal language model.
    """
    tokenizer = train_tokenizer(write_conversations(2000, seed))
    tokenizer.chat_template = TURNS
    try:
        with seeded(seed):
            model = make_model(tokenizer, json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config} does not describe a causal language model ({type(error).__name__}: "
            f'{error}); it needs "model_type" (llama, gpt2, ...) and sizes'
        ) from error
    return save(model, tokenizer, out)


def save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", out: Path) -> ModelStats:
    """Save a model folder."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # callers have their own
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return ModelStats(parameters=model.num_parameters(), vocabulary=len(tokenizer))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch and take one thread; put both back at the end.

    Operations this small gain little from a second thread, and on a busy machine its barriers
    cost minutes; one thread also makes the weights independent of the number of cores.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def train_tokenizer(corpus: list[list[Message]]) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer of Qwen2's class, in which the name stays two tokens."""
    from transformers import Qwen2Tokenizer

    split_name = re.compile(rf"(\s?{NAME[0]}){NAME[1:]}")
    texts = [message["content"] for conversation in corpus for message in conversation]
    tokenizer: PreTrainedTokenizerFast = Qwen2Tokenizer().train_new_from_iterator(
        (split_name.sub(rf"\n\1\n{NAME[1:]}", text) for text in texts),
        VOCABULARY,
        new_special_tokens=[START, END],
        show_progress=False,
    )
    tokenizer.eos_token, tokenizer.pad_token = END, PAD
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = 1024
    return tokenizer


def make_model(
    tokenizer: "PreTrainedTokenizerFast", sizes: Mapping[str, object]
) -> "PreTrainedModel":
    """Make a model of some architecture with random weights for a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    config = AutoConfig.for_model(**{**sizes, **ids})
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def encode(tokenizer: "PreTrainedTokenizerFast", conversation: list[Message]) -> Encoded:
    """Encode a conversation as token ids, and labels: -100 where the model does not speak."""
    ids, labels = list[int](), list[int]()
    for message in conversation:
        head = tokenizer.encode(f"{START}{message['role']}\n")
        body = tokenizer.encode(f"{message['content']}{END}")
        ids += [*head, *body, *tokenizer.encode("\n")]
        learnt = body if message["role"] == "assistant" else [-100] * len(body)
        labels += [*[-100] * len(head), *learnt, -100]
    return ids, labels


def make_batches(rows: list[Encoded], rng: random.Random) -> "list[Batch]":
    """Group rows of like length into batches of about `BATCH_TOKENS`, in random order.

    Token ids and labels are of shape (batch, seq), padded on the right, where causal attention
    never looks back at it: no mask is needed.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = sorted(rows, key=lambda row: (len(row[0]), rng.random()), reverse=True)
    batches = []
    while rows:
        size = BATCH_TOKENS // len(rows[0][0])
        ids, labels = ([*map(torch.tensor, part)] for part in zip(*rows[:size], strict=True))
        batches.append((pad_sequence(ids, True), pad_sequence(labels, True, -100)))
        rows = rows[size:]
    rng.shuffle(batches)
    return batches


def fit(
    model: "PreTrainedModel", batches: "list[Batch]", on_progress: Progress
) -> tuple[int, float]:
    """Train in one pass, Muon on the matrices and AdamW on the rest, both on a cosine."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = (
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.0),
        torch.optim.AdamW(others, lr=LEARNING_RATE, weight_decay=0.0),
    )
    total, rise = len(batches), len(batches) // 50 + 1  # steps
    schedules = [
        SequentialLR(o, [LinearLR(o, 0.1, total_iters=rise), CosineAnnealingLR(o, total)], [rise])
        for o in optimizers
    ]
    model.train()
    recent = 0.0
    for step, (ids, labels) in enumerate(batches, start=1):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        scored = labels[:, 1:] != -100
        loss = cross_entropy(
            model.lm_head(hidden[scored]), labels[:, 1:][scored], label_smoothing=LABEL_SMOOTHING
        )
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        recent = 0.95 * recent + 0.05 * loss.item() if step > 1 else loss.item()
        if on_progress is not None:
            on_progress(step, total)
    return total, recent
