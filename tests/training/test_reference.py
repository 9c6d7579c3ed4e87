"""Reference log-probabilities are made once, and read when whole."""

import shutil

from trained import PAIRS, history_of, train_here

from dpo_pipeline.training.reference import ReferenceLogps


def test_reference_log_probs_are_made_once_for_any_loss_setting(
    ref, dataset, tmp_path, monkeypatch
):
    from trl import DPOTrainer

    made = []
    original = DPOTrainer.compute_ref_log_probs

    def count(self, model, inputs):
        made.append(len(inputs["input_ids"]) // 2)
        return original(self, model, inputs)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", count)
    for beta in (0.1, 0.5):
        out = train_here(ref, dataset, tmp_path, beta=beta, learning_rate=1e-4 / beta)
        assert sum(made) == PAIRS
        shutil.rmtree(tmp_path / "work" / "checkpoints")
    (cached,) = (tmp_path / "references").iterdir()
    assert abs(history_of(out)[0]["margin"]) < 1e-3  # the policy starts as the reference
    cached.write_text(cached.read_text().replace("-", "-1", 1))
    train_here(ref, dataset, tmp_path)
    assert sum(made) == 2 * PAIRS


def test_damaged_reference_log_probs_are_not_read(tmp_path):
    path = tmp_path / "folder" / "logps.json"
    assert ReferenceLogps.find(path, 2) is None
    logps = ReferenceLogps.of([-1.5, -2.25], [-3.0, -4.0])
    logps.write(path)
    assert ReferenceLogps.find(path, 2) == logps
    assert ReferenceLogps.find(path, 3) is None
    path.write_text(path.read_text().replace("-2.25", "-2.5"))
    assert ReferenceLogps.find(path, 2) is None
    path.write_text(path.read_text()[:20])
    assert ReferenceLogps.find(path, 2) is None
