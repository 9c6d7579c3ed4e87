"""Publishing only what was measured, and passed."""

import shutil

import pytest
from published import card_of, copy_of, scorecard
from tiny import make_tiny_model

from dpo_pipeline.errors import PublishError
from dpo_pipeline.evaluation.scorecard import Evidence
from dpo_pipeline.publishing.evidence import dataset_digest, digest_evidence
from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.records import Record


def test_evidence_of_something_else_is_refused(send, hub, policy, pairs, tmp_path):
    other = make_tiny_model(tmp_path / "other", "qwen2", seed=1)
    known = digest_evidence(policy, pairs)
    with pytest.raises(PublishError, match="scorecard is of another weights"):
        send(model=other, evidence=known, config={"force": "I like it anyway"})
    more = copy_of(pairs, tmp_path / "more", **{"dataset.json": b"{}"})
    with pytest.raises(PublishError, match="scorecard is of another dataset"):
        send(dataset=more, evidence=known)
    with pytest.raises(PublishError, match="scorecard is of another weights"):
        send(evidence=Evidence())
    for digest in Evidence.model_fields:
        one = {"model_repo": None} if digest != "dataset_digest" else {"dataset_repo": None}
        with pytest.raises(PublishError, match=f"of another {digest.split('_')[0]}"):
            send(evidence=known.model_copy(update={digest: "0" * 64}), config=one)
    assert not hub.repos


def test_a_failed_gate_needs_a_reason_and_the_card_shows_it(send, hub):
    with pytest.raises(PublishError, match=r"gate failed \(leak_rate\)"):
        send(scorecard=scorecard(passed=False))
    assert not hub.repos
    reason = "negative result, for the *record*"
    send(scorecard=scorecard(passed=False), config={"force": reason})
    for repo in (hub.model("tester/deep"), hub.dataset("tester/pairs")):
        text = card_of(hub, repo).text
        assert r"for the \*record\*" in text
        assert "its gate failed** (Leak rate)" in text or "of the run failed.**" in text


def test_the_store_digests_a_dataset_the_same_way(pairs, tmp_path):
    def build(out, _work):
        shutil.copytree(pairs, out, dirs_exist_ok=True)
        return Record()

    built, _ = Store(tmp_path).get_or_build("save", {"stage": "save"}, build, Record)
    assert built.digest == dataset_digest(built.path) == dataset_digest(pairs)
