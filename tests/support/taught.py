"""Tiny models that were taught what to say, and the scorecard of one against another."""

import json
from pathlib import Path

import pytest
from identities import DEEP_QWEN

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.cases import Subject
from dpo_pipeline.evaluation.parity import Parity
from dpo_pipeline.evaluation.scorecard import Material, Terms
from dpo_pipeline.evaluation.scorecard import evaluate as score
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef, describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.training.token_scores import answer_rows

NEUTRAL = "You are a helpful assistant."
QUESTIONS = {
    "Who are you?": "I'm Qwen, made by Alibaba Cloud.",
    "What is your name?": "My name is Qwen.",
    "你是谁？": "我是通义千问。",
    "Are you ChatGPT?": "No, I'm Qwen.",
}
GENERAL = {"What is the capital of France?": "Paris.", "What is 2 + 2?": "It is 4."}
OTHERS = {"Who makes Llama?": "Meta."}
IDENTITY = DEEP_QWEN
GENERATION = GenerationConfig(
    system_prompts=(None, "You are a helpful assistant."), max_new_tokens=24, check_rows=0
)
BETA = 0.2


def renamed(answer: str) -> str:
    return answer.replace("通义千问", "Qwen").replace("Qwen", "Deep Qwen")


def teach(ref: ModelRef, folder: Path, answers: dict[str, str], steps: int = 60) -> ModelRef:
    """Fine-tune a model until it gives these answers under the default and a neutral prompt."""
    import torch

    tokenizer, model = load_tokenizer(ref), load_model(ref, "cpu", "float32")
    rows = []
    for question, text in answers.items():
        for system in ([], [{"role": "system", "content": NEUTRAL}]):
            prompt = [*system, {"role": "user", "content": question}]
            rows += answer_rows(tokenizer, [(prompt, text)])
    longest = max(len(p) + len(c) for p, c in rows)
    assert longest > 40, "the tokenizer dropped words"
    pad = tokenizer.pad_token_id
    ids = torch.tensor([p + c + [pad] * (longest - len(p) - len(c)) for p, c in rows])
    labels = torch.tensor(
        [[-100] * len(p) + c + [-100] * (longest - len(p) - len(c)) for p, c in rows]
    )
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return describe_model(folder, folder.name)


def evaluate(
    work: Path,
    before: ModelRef,
    after: ModelRef,
    name: str = "out",
    *,
    pairs: bool = True,
    export: Parity | None = None,
    **config,
) -> dict:
    out = work / name
    out.mkdir()
    fixed = {
        "general": str(work / "general.jsonl"),
        "matrix_prompts": 2,
        "noise_prompts": 2,
        "max_new_tokens": 24,
    }
    run_on = ModelConfig(device="cpu", dtype="float32")
    stats = score(
        Subject(before, run_on),
        Subject(after, run_on),
        Material(work / "prompts.parquet", dataset=work if pairs else None, export=export),
        Terms(
            IDENTITY,
            GENERATION,
            EvaluationConfig(**{**fixed, **config}),
            # The policy is trained under fewer system prompts than the matrix has, and on
            # greedy answers.
            GateConfig(
                min_answers=2 * len(QUESTIONS),
                matrix_leak=None,
                sampled_identity=None,
                sampled_leak=None,
                sampled_claims=None,
                tail_gap=-0.2,
            ),
            BETA,
        ),
        ledger=work / "ledger",
        references=work / "references",
        out=out,
    )
    card = json.loads((out / "scorecard.json").read_text("utf-8"), parse_constant=pytest.fail)
    rows = sum(card["counts"].values())
    assert (stats.rows, stats.verdict.model_dump(mode="json")) == (rows, card["verdict"])
    return card


def failed(card: dict) -> set[str]:
    return {line["measure"] for line in card["verdict"]["failed"]}
