"""Questions to tiny models, and their answers by the plainest use of transformers."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import Request
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.models.chat_templates import encode
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.settings import ModelConfig

HERE = ModelConfig(device="cpu", dtype="float32")
SYSTEMS = (None, "You are a helpful assistant.")
GREEDY = GenerationConfig(system_prompts=SYSTEMS, max_new_tokens=24)
SAMPLED = GREEDY.model_copy(update={"temperature": 1.0, "top_p": 0.9, "seed": 3})


def ask(text: str, system: str | None = None) -> Request:
    first = [] if system is None else [{"role": "system", "content": system}]
    return Request((*first, {"role": "user", "content": text}))


# Prompts of many lengths, whose answers end at many lengths.
REQUESTS = [ask(f"Who are you {i * 37}? {'abc ' * (i % 7)}") for i in range(24)]


def one_by_one(ref, requests: list[Request], tokens: int) -> list[tuple[str, int]]:
    """Answer as the plainest use of transformers does: text and length."""

    model, tokenizer = load_model(ref, "cpu", "float32"), load_tokenizer(ref)
    ends, answers = {0} if "gpt2" in str(ref.path) else {2}, []
    for request in requests:
        ids = torch.tensor([encode(tokenizer, request.messages)])
        assert ids.shape[1] > 10
        said = model.generate(
            input_ids=ids, attention_mask=ids * 0 + 1, max_new_tokens=tokens, do_sample=False
        )[0, ids.shape[1] :].tolist()
        said = [token for token in said if token not in ends]
        answers.append((tokenizer.decode(said, skip_special_tokens=True), len(said)))
    return answers


def made(ref, requests, ledger, config=GREEDY, model=HERE) -> int:
    """Answer requests and tell how many answers were not in the ledger."""
    fresh = 0

    def count(done: int, wanted: int) -> None:
        nonlocal fresh
        fresh += 1

    answer(ref, requests, model=model, config=config, ledger=ledger, on_progress=count)
    return fresh


def write_prompts(path: Path, count: int) -> Path:
    rows = [
        {
            "id": f"p{i}",
            "messages": [{"role": "user", "content": f"Who are you, {i}?"}],
            "split": "held_out" if i % 5 == 0 else "train",
            "family": "name",
            "language": "en",
            "turns": 1,
            "source_row": i + 100,
            "given_chosen": None,
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
