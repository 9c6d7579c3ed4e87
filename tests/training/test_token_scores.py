"""Scores of tokens, held against the definitions, whatever shares a batch."""

import pytest
import torch
from float64 import in_float64
from tiny import make_tiny_model

from dpo_pipeline.models.loading import load_model
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.training.token_scores import score_tokens


def two_models(folder, arch="qwen2"):
    folders = (make_tiny_model(folder / str(seed), arch, seed) for seed in (0, 1))
    return [load_model(describe_model(folder, "tiny"), "cpu", "float32") for folder in folders]


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@in_float64()
def test_scores_are_those_of_the_two_distributions(tmp_path):
    models = two_models(tmp_path)
    rows = [([5, 6, 7], [8, 9]), ([5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15])]
    for (prompt, completion), score in zip(rows, score_tokens(*models, rows), strict=True):
        with torch.inference_mode():
            p, q = (
                m(torch.tensor([prompt + completion])).logits[0].log_softmax(-1) for m in models
            )
        at = slice(len(prompt) - 1, -1)
        kl = torch.nn.functional.kl_div(q[at], p[at], reduction="none", log_target=True).sum(-1)
        assert_close(score.kl, kl)
        for found, logps in ((score.policy, p), (score.reference, q)):
            assert_close(found, logps[at].gather(-1, torch.tensor(completion)[:, None])[:, 0])


@pytest.mark.parametrize("arch", ["qwen2", "gpt2"])
@in_float64()
def test_a_batch_changes_no_score(arch, tmp_path, monkeypatch):
    models = two_models(tmp_path, arch)
    rows = [([5 + i] * (3 + i), [9, 10, 11][: 1 + i % 3]) for i in range(9)]
    together = score_tokens(*models, rows)
    monkeypatch.setattr("dpo_pipeline.training.token_scores.ROWS", 1)
    for one, many in zip(score_tokens(*models, rows), together, strict=True):
        assert_close(one.policy, many.policy)
        assert_close(one.kl, many.kl)
