"""DPO on instruction rows with a GPT-2 of 0.3M parameters, from scratch. Half a minute.

    python examples/gpt2_preference.py

A base model has no chat template, so the prompt is written in the instruction format of
Alpaca, and only the answer after "### Response:" is scored. The rows hold a plain answer
(chosen) and a rude one (rejected) to the same instruction.

What to look at:
- Held-out accuracy: rows whose words the model has never seen, so it goes by tone alone.
- Training loss falls far below the held-out one: 25 rows are soon learnt by heart.
"""

import copy
import json
import random
from pathlib import Path

import torch
from llama_from_scratch import BETA, SEED, Pair, answer_logps, pretrain, train_dpo
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from dpo_pipeline.training.loss import dpo_loss

ROWS = Path(__file__).parent / "preferences.jsonl"


def load_pairs() -> tuple[list[Pair], list[Pair]]:
    """Read the rows as (prompt, chosen, rejected); every fifth is held out."""
    pairs = []
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        parts = ["### Instruction:", row["instruction"]]
        parts += ["\n### Input:", row["input"]] if row["input"] else []
        prompt = "\n".join([*parts, "\n### Response:\n"])
        pairs.append((prompt, f"{row['chosen']}\n", f"{row['rejected']}\n"))
    random.Random(SEED).shuffle(pairs)
    return [pair for i, pair in enumerate(pairs) if i % 5], pairs[::5]


@torch.no_grad()
def report(policy: PreTrainedModel, reference: PreTrainedModel, pairs: list[Pair]) -> str:
    """Describe loss, reward margin and preference accuracy on pairs."""
    chosen = [(prompt, answer) for prompt, answer, _ in pairs]
    rejected = [(prompt, answer) for prompt, _, answer in pairs]
    logps = [
        answer_logps(model, side) for model in (policy, reference) for side in (chosen, rejected)
    ]
    losses, chosen_rewards, rejected_rewards = dpo_loss(*logps, beta=BETA)
    margin = chosen_rewards - rejected_rewards
    accuracy = (margin > 0).float().mean()
    return f"loss {losses.mean():.3f}, margin {margin.mean():.2f}, accuracy {accuracy:.2f}"


def main() -> None:
    """Pretrain on both answers, train with DPO, and compare on rows held out."""
    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=256, n_positions=512, n_embd=96, n_layer=2, n_head=4, attn_pdrop=0.0,
        embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    policy = GPT2LMHeadModel(config)
    pairs, held_out = load_pairs()
    pretrain(policy, pairs, steps=200)
    reference = copy.deepcopy(policy).eval()
    train_dpo(policy, pairs, steps=30)
    print(f"training rows: {report(policy, reference, pairs)}")
    print(f"held-out rows: {report(policy, reference, held_out)}")


if __name__ == "__main__":
    main()
