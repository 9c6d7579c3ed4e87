"""What happens after a step."""

import pytest
from trained import train_here

from dpo_pipeline.errors import TrainingError


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_checkpoints(ref, dataset, tmp_path):
    with pytest.raises(TrainingError, match=r"Step \d: loss nan.*learning_rate"):
        train_here(ref, dataset, tmp_path, learning_rate=1e30, save_steps=1)
    kept = sorted((tmp_path / "work" / "checkpoints").glob("checkpoint-*"))
    assert kept
    assert not (tmp_path / "out" / "model").exists()
