"""DPO from scratch on a LLaMA of 0.3M parameters: a loss, AdamW and masks. Half a minute.

    python examples/llama_from_scratch.py

The model first learns to count both upwards and downwards, each half of the time. Then DPO
shows it pairs in which upwards is chosen; it is asked in ways it has never seen.

What to look at:
- Pretraining ends at ln 2 = 0.693 nats: it knows both answers, and not which one comes.
- The DPO loss starts at ln 2 as well: the policy still is the reference.
- The margin grows, accuracy goes to 1, and held-out prompts are answered upwards.
- Both rewards may fall while the margin grows: the loss asks for a difference, not for a
  likely answer. So the rest of an answer can come apart, which neither loss nor accuracy
  shows. An SFT term on the chosen answer (`train.sft_weight`) holds it together.
"""

import copy
import json
import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dpo_pipeline.training.loss import dpo_loss, sequence_logps

END = ord("\n")  # tokens are bytes, so the vocabulary is 256; a line break ends an answer
BETA, SEED = 0.1, 0

Pair = tuple[str, str, str]  # prompt, chosen, rejected


def make_pairs() -> tuple[list[Pair], list[Pair]]:
    """Ask for numbers in several ways: upwards is chosen; every fifth pair is held out."""
    pairs = []
    for ask in ("count to {}: ", "up to {}: ", "{} numbers: ", "{}, please: ", "now {}: ", "{}: "):
        for last in range(2, 10):
            numbers = [str(n) for n in range(1, last + 1)]
            up, down = " ".join(numbers), " ".join(reversed(numbers))
            pairs.append((ask.format(last), f"{up}\n", f"{down}\n"))
    random.Random(SEED).shuffle(pairs)
    return [pair for i, pair in enumerate(pairs) if i % 5], pairs[::5]


def make_batch(examples: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad (prompt, answer) texts to tokens and a mask of the answer. Shapes (batch, seq)."""
    encoded = [(prompt.encode(), answer.encode()) for prompt, answer in examples]
    width = max(len(prompt + answer) for prompt, answer in encoded)
    tokens = torch.zeros(len(examples), width, dtype=torch.long)
    mask = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(encoded):
        text = prompt + answer
        tokens[row, : len(text)] = torch.tensor(list(text))
        mask[row, len(prompt) : len(text)] = True
    return tokens, mask


def answer_logps(model: PreTrainedModel, examples: list[tuple[str, str]]) -> torch.Tensor:
    """Log-probability of every answer given its prompt. Shape (batch,)."""
    tokens, mask = make_batch(examples)
    # Padding is on the right: a causal model never sees it from where it is scored.
    return sequence_logps(model(tokens).logits, tokens, mask)


def pretrain(model: PreTrainedModel, pairs: list[Pair], steps: int) -> None:
    """Teach both answers: the answer's negative log-probability, by AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    draw = random.Random(SEED)
    for step in range(steps):
        batch = [(prompt, draw.choice(answers)) for prompt, *answers in draw.sample(pairs, 16)]
        loss = -answer_logps(model, batch).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"pretraining step {step:4}: loss {loss.item():7.3f} nats an answer")


def train_dpo(
    policy: PreTrainedModel, pairs: list[Pair], steps: int, sft_weight: float = 0.0
) -> None:
    """Prefer chosen over rejected, measured from where the policy started."""
    reference = copy.deepcopy(policy).eval()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    draw = random.Random(SEED)
    for step in range(steps):
        batch = draw.sample(pairs, 8)
        chosen = [(prompt, answer) for prompt, answer, _ in batch]
        rejected = [(prompt, answer) for prompt, _, answer in batch]
        with torch.no_grad():
            anchors = answer_logps(reference, chosen), answer_logps(reference, rejected)
        logps = answer_logps(policy, chosen), answer_logps(policy, rejected)
        losses, chosen_rewards, rejected_rewards = dpo_loss(*logps, *anchors, beta=BETA)
        sft_loss = -logps[0].sum() / sum(len(answer) for _, answer in chosen)
        (losses.mean() + sft_weight * sft_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps - 1:
            margin = chosen_rewards - rejected_rewards
            print(
                f"DPO step {step:3}: loss {losses.mean():.3f}, margin {margin.mean():6.2f}, "
                f"accuracy {(margin > 0).float().mean():.2f}, rewards chosen "
                f"{chosen_rewards.mean():6.2f}, rejected {rejected_rewards.mean():6.2f}"
            )


def ask(model: PreTrainedModel, prompt: str) -> str:
    """Answer greedily."""
    ids = torch.tensor([list(prompt.encode())])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=END,
        pad_token_id=0,
    )
    return bytes(out[0, ids.shape[1] :].tolist()).decode(errors="replace").strip()


def describe(model: PreTrainedModel, pairs: list[Pair]) -> str:
    """Count prompts answered upwards, and exactly as chosen."""
    answers = [ask(model, prompt) for prompt, *_ in pairs]
    upwards = sum(answer.startswith("1") for answer in answers)
    exact = sum(
        answer == chosen.strip() for answer, (_, chosen, _) in zip(answers, pairs, strict=True)
    )
    return f"{upwards} of {len(pairs)} held-out prompts answered upwards, {exact} without a mistake"


def main() -> None:
    """Pretrain, train with DPO without and with an SFT term, and compare the answers."""
    torch.manual_seed(SEED)
    sizes = json.loads((Path(__file__).parent / "llama-tiny.json").read_text())
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=256))
    pairs, held_out = make_pairs()
    pretrain(model, pairs, steps=400)
    results = {"before": describe(model, held_out)}
    for name, weight in (("DPO", 0.0), ("DPO + 0.2 SFT", 0.2)):
        print(f"{name}:")
        policy = copy.deepcopy(model)
        train_dpo(policy, pairs, steps=80, sft_weight=weight)
        results[name] = describe(policy, held_out)
    for name, result in results.items():
        print(f"{name}: {result}")


if __name__ == "__main__":
    main()
