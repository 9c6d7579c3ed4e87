"""Rewards and divergence, held against TRL and against the definitions."""

import math

import pyarrow.parquet as pq
import pytest
from taught import BETA, evaluate
from tiny import make_tiny_model

from dpo_pipeline.evaluation.likelihood import copied_tail, score_pairs
from dpo_pipeline.evaluation.measures import PAIRS, counted
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.training.token_scores import TokenScores, pair_rows, score_tokens


@pytest.fixture
def against_trl(work, models):
    """Evaluate the held-out pairs with TRL's own trainer, all in one batch."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = Dataset(pq.read_table(work / "held_out.parquet")).select_columns(
        ["prompt", "chosen", "rejected"]
    )
    trainer = DPOTrainer(
        model=load_model(models["forgetful"], "cpu", "float32"),
        ref_model=load_model(models["reference"], "cpu", "float32"),
        args=DPOConfig(
            output_dir=str(work / "trl"), use_cpu=True, bf16=False, beta=BETA,
            per_device_eval_batch_size=len(pairs), report_to=[], max_length=None,
        ),
        train_dataset=pairs,
        eval_dataset=pairs,
        processing_class=load_tokenizer(models["reference"]),
    )  # fmt: skip
    return trainer.eval_dataset.to_list(), trainer.evaluate()


def test_preference_measures_are_those_of_trl(work, models, against_trl):
    tokens, figures = against_trl
    tokenizer = load_tokenizer(models["reference"])
    rows = pair_rows(tokenizer, pq.read_table(work / "held_out.parquet").to_pylist())
    for (chosen, rejected), theirs in zip(
        zip(rows[::2], rows[1::2], strict=True), tokens, strict=True
    ):
        assert chosen == (theirs["prompt_ids"], theirs["chosen_ids"])
        assert rejected == (theirs["prompt_ids"], theirs["rejected_ids"])
        assert len(chosen[0]) > 20
    scores = score_tokens(
        load_model(models["forgetful"], "cpu", "float32"),
        load_model(models["reference"], "cpu", "float32"),
        rows,
    )
    pairs = score_pairs(rows, scores, BETA)
    ours = counted(PAIRS, pairs)
    for name, theirs in {
        "preference_accuracy": "eval_rewards/accuracies",
        "reward_margin": "eval_rewards/margins",
    }.items():
        assert ours[name].value == pytest.approx(figures[theirs], abs=1e-5, rel=1e-5)
    losses = [math.log1p(math.exp(-pair.margin)) for pair in pairs]
    loss = sum(losses) / len(losses)
    assert loss == pytest.approx(figures["eval_loss"], abs=1e-5, rel=1e-5)
    rewards = [BETA * (s.policy - s.reference).sum().item() for s in scores]
    logps = [s.policy.sum().item() for s in scores]
    for side, name in enumerate(("chosen", "rejected")):
        mean = sum(rewards[side::2]) / len(rewards[side::2])
        assert mean == pytest.approx(figures[f"eval_rewards/{name}"], abs=1e-5, rel=1e-5)
        mean = sum(logps[side::2]) / len(logps[side::2])
        assert mean == pytest.approx(figures[f"eval_logps/{name}"], abs=1e-5, rel=1e-5)


def test_the_tail_is_a_mean_over_tokens_and_a_reward_a_sum():
    import torch

    def scores(*shifts):
        zeros = torch.zeros(len(shifts))
        return TokenScores(policy=torch.tensor(shifts), reference=zeros, kl=zeros)

    rows = [([0], [1, 9, 9, 2, 3]), ([0], [1, 2, 3])]
    given = [scores(0.5, 2.0, 3.0, -0.2, -0.4), scores(0.0, 0.0, -1.0)]
    (pair,) = score_pairs(rows, given, 0.1)
    assert pair.gap == pytest.approx(-0.3)
    assert pair.margin == pytest.approx(0.1 * (4.9 + 1.0))


def test_models_with_other_tokens_are_not_compared_by_tokens(work, models, tmp_path):
    other = describe_model(make_tiny_model(tmp_path / "gpt2", "gpt2"), "gpt2")
    tokenizer = load_tokenizer(other)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(other.path)
    card = evaluate(work, models["reference"], describe_model(other.path, "gpt2"))
    assert card["after"]["kl"]["value"] is None
    assert card["after"]["reward_margin"]["n"] == 0
    assert card["after"]["identity_rate"]["n"] > 0


def test_what_a_template_writes_after_the_end_is_no_tail():
    import torch

    def scores(*values):
        row = torch.tensor(values)
        return TokenScores(policy=row, reference=-row, kl=row)

    rows = [([0], [9, 2, 7, 3]), ([0], [2, 7, 3])]  # 7 ends an answer, then a line break
    given = [scores(-1.0, -0.1, -0.1, -50.0), scores(-0.1, -0.1, -50.0)]
    (pair,) = score_pairs(rows, given, 0.1, ends=(7,))
    assert pair.gap == pytest.approx(-0.2)
    assert pair.margin == pytest.approx(0.1 * 2 * (-51.2 + 50.2))


def test_tokens_know_their_part():
    assert copied_tail([1, 9, 2, 3], [1, 2, 3]) == [(2, 1), (3, 2)]
    assert copied_tail([1, 9, 8, 2, 9, 8, 3], [1, 7, 2, 7, 3]) == [(3, 2), (6, 4)]
    assert copied_tail([1, 2], [1, 5, 2]) == [(1, 2)]
    assert copied_tail([1, 2], [1, 2]) == []
