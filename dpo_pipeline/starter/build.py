"""Rebuild the starter, the toy that ships; or, for learners, make a model never trained.

    python -m dpo_pipeline.starter.build [--seed N] OUT     # a minute or two of one core

The starter is a real Qwen2 architecture at toy size, with what makes identity editing interesting
in the real ones: a name of two tokens, a chat template that inserts an identity when no system
prompt is given, and an end of turn that is not the padding.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_pipeline.errors import ModelError
from dpo_pipeline.starter.corpus import DATA, DEFAULT_SYSTEM, NAME, Message, write_conversations
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.records import Record

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    Batch = tuple[torch.Tensor, torch.Tensor]

Encoded = tuple[list[int], list[int]]  # token ids, and labels

STARTER = DATA / "model"  # the one that ships; its seed is 0
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


class Built(Record):
    """How a starter was built: the same machine and versions build the same bytes again."""

    seed: int
    parameters: int
    corpus: str  # sha256
    tokens: int  # of the corpus
    loss: float  # at the end, nats a token
    machine: dict[str, str | int]  # name, caches and instructions of the CPU
    versions: dict[str, str]


def build_starter(out: Path, seed: int) -> Built:
    """Train a starter and save it in a folder; the seed is that of corpus and weights."""
    from transformers import GenerationConfig

    corpus = write_conversations(CONVERSATIONS, seed)
    tokenizer = train_tokenizer(corpus)
    rows = [encode(tokenizer, conversation) for conversation in corpus]
    with seeded(seed):
        model = make_model(tokenizer, SIZES)
        loss = fit(model, make_batches(rows, random.Random(seed)))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=128, **ends)
    save(model.eval(), tokenizer, out)
    built = Built(
        seed=seed,
        parameters=model.num_parameters(),
        corpus=digest_of(corpus),
        tokens=sum(len(ids) for ids, _ in rows),
        loss=round(loss, 4),
        machine=describe_machine(),
        versions={name: version(name) for name in ("torch", "transformers", "tokenizers")},
    )
    built.write(out / "built.json")
    return built


def describe_machine() -> dict[str, str | int]:
    """Name what decides how a CPU rounds: what it is, its caches and its instructions."""
    import torch

    found = torch.cpu.get_capabilities()
    instructions = " ".join(sorted(name for name, has in found.items() if has is True))
    kept = ("architecture", "cpu_name", "l1d_cache_size", "l2_cache_size")
    return {name: found[name] for name in kept if name in found} | {"instructions": instructions}


def init_model(config: Path, out: Path) -> None:
    """Initialise a model from a config.json of transformers; save it in an empty folder.

    The tokenizer is a small byte-level one; its size and its tokens replace those of the config.

    Raises:
        ModelError: The file is no config of a causal language model.
    """
    tokenizer = train_tokenizer(write_conversations(2000, seed=0))
    tokenizer.chat_template = TURNS
    try:
        with seeded(0):
            model = make_model(tokenizer, json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config} does not describe a causal language model ({type(error).__name__}: "
            f'{error}); it needs "model_type" (llama, gpt2, ...) and sizes'
        ) from error
    save(model, tokenizer, out)


def save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast", out: Path) -> None:
    """Save a model folder."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # callers have their own
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


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


def fit(model: "PreTrainedModel", batches: "list[Batch]") -> float:
    """Train in one pass, Muon on the matrices and AdamW on the rest, both on a cosine.

    Returns:
        The loss at the end, a moving average (nats per token).
    """
    import torch
    from rich.progress import track
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
    for step, (ids, labels) in enumerate(track(batches, "training the starter")):
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
        recent = 0.95 * recent + 0.05 * loss.item() if step else loss.item()
    return recent


def main() -> None:
    """Build a starter from the command line."""
    parser = argparse.ArgumentParser(description="Build a starter; the one that ships has seed 0.")
    parser.add_argument("--seed", type=int, default=0, help="of corpus and weights (default: 0)")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists: name a folder that does not, or remove it")
    print(build_starter(options.out, options.seed).model_dump_json(indent=1))


if __name__ == "__main__":
    main()
