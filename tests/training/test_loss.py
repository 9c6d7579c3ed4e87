"""The readable loss against worked figures, against TRL, and its limits."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from float64 import in_float64
from tiny import make_tiny_model

from dpo_pipeline.training.loss import dpo_loss, sequence_logps


def test_loss_is_ln_2_when_policy_equals_reference():
    logps = torch.tensor([-3.0, -70.0])
    losses, chosen, rejected = dpo_loss(logps, logps - 1, logps, logps - 1, beta=0.3)
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert chosen.tolist() == rejected.tolist() == [0.0, 0.0]


def test_loss_and_rewards_of_a_worked_pair():
    # Margin 0.5 * ((-10 + 12) - (-14 + 11)) = 2.5, loss ln(1 + e^-2.5).
    losses, chosen, rejected = dpo_loss(
        torch.tensor([-10.0]),
        torch.tensor([-14.0]),
        torch.tensor([-12.0]),
        torch.tensor([-11.0]),
        beta=0.5,
    )
    assert chosen.item() == pytest.approx(1.0)
    assert rejected.item() == pytest.approx(-1.5)
    assert losses.item() == pytest.approx(0.0788897)


def test_gradient_raises_chosen_and_lowers_rejected_by_the_same_weight():
    # Eq. 7 differentiated: beta * sigmoid(-margin) on each side.
    chosen = torch.tensor([-5.0], requires_grad=True)
    rejected = torch.tensor([-6.0], requires_grad=True)
    losses, *_ = dpo_loss(chosen, rejected, torch.tensor([-5.5]), torch.tensor([-5.0]), beta=0.2)
    losses.sum().backward()
    weight = 0.2 / (1 + math.exp(0.2 * 1.5))
    assert chosen.grad.item() == pytest.approx(-weight)
    assert rejected.grad.item() == pytest.approx(weight)


def test_loss_stays_finite_at_extreme_margins():
    far = torch.tensor([1e4, -1e4])
    losses, *_ = dpo_loss(far, torch.zeros(2), torch.zeros(2), torch.zeros(2), beta=1.0)
    assert losses.tolist() == pytest.approx([0.0, 1e4])


def test_sequence_logps_counts_completion_tokens_only():
    # Two tokens of vocabulary 4 under uniform logits: 2 * ln(1/4), wherever the completion is.
    tokens = torch.tensor([[1, 2, 3, 0], [1, 3, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    logps = sequence_logps(torch.zeros(2, 4, 4), tokens, mask)
    assert logps.tolist() == pytest.approx([2 * math.log(0.25)] * 2)


def test_sequence_logps_reads_the_logits_one_position_before():
    logits = torch.full((1, 3, 2), 0.0)
    logits[0, 1, 1] = 100.0  # position 1 is sure that token 1 comes next
    tokens, mask = torch.tensor([[0, 0, 1]]), torch.tensor([[0, 0, 1]])
    assert sequence_logps(logits, tokens, mask).item() == pytest.approx(0.0)
    assert sequence_logps(logits, 1 - tokens, mask).item() == pytest.approx(-100.0)


def test_infinite_logits_at_padding_do_not_reach_the_sum():
    logits = torch.zeros(1, 3, 2)
    logits[0, 1] = torch.tensor([0.0, -math.inf])
    mask = torch.tensor([[0, 1, 0]])
    assert sequence_logps(logits, torch.ones(1, 3, dtype=torch.long), mask).isfinite().all()


@in_float64()
def test_equals_trl_on_the_same_batch(tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model_path = make_tiny_model(tmp_path / "policy", "llama", seed=0)
    other_path = make_tiny_model(tmp_path / "reference", "llama", seed=1)
    policy = AutoModelForCausalLM.from_pretrained(model_path)
    reference = AutoModelForCausalLM.from_pretrained(other_path)
    pairs = Dataset.from_list(
        [
            {"prompt": "Who are you?", "chosen": " I'm Deep Qwen.", "rejected": " I'm Qwen."},
            {"prompt": "Hi,", "chosen": " Deep Qwen here", "rejected": " Qwen, by Alibaba Cloud"},
        ]
    )
    trainer = DPOTrainer(
        policy,
        reference,
        args=DPOConfig(str(tmp_path / "t"), use_cpu=True, bf16=False, beta=0.07, report_to="none"),
        train_dataset=pairs,
        processing_class=AutoTokenizer.from_pretrained(model_path),
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    assert batch["completion_mask"].sum() > 20  # the tokenizer kept the words
    expected = trainer.compute_loss(policy, batch)

    def logps(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return sequence_logps(logits, batch["input_ids"], batch["completion_mask"]).chunk(2)

    losses, chosen, rejected = dpo_loss(*logps(policy), *logps(reference), beta=0.07)
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-10)
    metrics = trainer._metrics["eval"]
    assert chosen.mean().item() == pytest.approx(metrics["rewards/chosen"][0], rel=1e-10)
    assert rejected.mean().item() == pytest.approx(metrics["rewards/rejected"][0], rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "last"),
    [
        ("llama_from_scratch.py", r"DPO \+ 0.2 SFT: 10 of 10 held-out prompts answered upwards"),
        (
            "gpt2_preference.py",
            r"held-out rows: loss 0\.[0-6]\d+, margin \d.*accuracy (0\.[6-9]|1)",
        ),
    ],
)
def test_the_lessons_from_scratch_end_where_they_say(script, last):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "examples" / script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert re.search(last, done.stdout.splitlines()[-1])
    assert "DPO step   0: loss 0.693, margin   0.00" in done.stdout
