"""Tasks of lm-eval as lines of the scorecard; the library itself only where it is installed."""

import json

import pytest
import yaml
from tiny import make_tiny_model

from dpo_pipeline.errors import EvaluationError
from dpo_pipeline.evaluation import gate, lm_eval_tasks, statistics
from dpo_pipeline.evaluation.cases import Subject
from dpo_pipeline.evaluation.settings import GateConfig, LmEvalConfig
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.models.settings import ModelConfig


@pytest.fixture
def task(tmp_path):
    """Write a task that needs no network: 30 sums, and two answers to each."""
    rows = [
        {"question": f"{n} plus {n} is", "choices": [str(2 * n), str(2 * n + 3)], "answer": n % 2}
        for n in range(30)
    ]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "sums.yaml"
    settings = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    }
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_a_missing_library_names_the_command_that_installs_it(monkeypatch):
    def missing(name):
        raise lm_eval_tasks.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(lm_eval_tasks.metadata, "version", missing)
    with pytest.raises(EvaluationError, match=r"pip install .*\[lm-eval\]"):
        lm_eval_tasks.describe_tasks(LmEvalConfig(tasks=("arc_easy",)))
    assert lm_eval_tasks.describe_tasks(None) == {}


def test_the_gate_holds_the_largest_drop_against_the_policy():
    drop = statistics.mean([0.0] * 95 + [100.0] * 5)
    figures = {"lm_eval_drop": drop}
    for allowed, failed in ((4.0, ["lm_eval_drop"]), (5.0, []), (None, [])):
        verdict = gate.judge(figures, GateConfig(lm_eval_drop=allowed))
        lines = [line.measure for line in verdict.failed if line.n]
        assert lines == failed


@pytest.mark.slow
class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self, monkeypatch):
        pytest.importorskip("lm_eval", reason='needs pip install -e ".[lm-eval]"')
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def score(self, before, after, **config):
        run_on = ModelConfig(device="cpu", dtype="float32")
        return lm_eval_tasks.score_tasks(
            Subject(before, run_on),
            Subject(after, run_on),
            LmEvalConfig(**config),
        )

    def test_another_model_scores_otherwise_and_the_same_one_alike(self, task, tmp_path):
        good = describe_model(make_tiny_model(tmp_path / "good"), "good")
        bad = describe_model(make_tiny_model(tmp_path / "bad", seed=3), "bad")
        was, now = self.score(good, bad, tasks=(task,), limit=20)
        assert was["lm_eval/sums"].n == 20
        lost = was["lm_eval/sums"].value - now["lm_eval/sums"].value
        assert lost != 0
        assert now["lm_eval_drop"].value == pytest.approx(100 * lost)
        same = self.score(good, good, tasks=(task,), limit=None)[1]
        assert same["lm_eval_drop"] == statistics.mean([0.0] * 30)

    def test_what_is_not_there_is_named(self, task, tmp_path):
        with pytest.raises(EvaluationError, match=r"gone\.yaml does not exist"):
            lm_eval_tasks.describe_tasks(LmEvalConfig(tasks=(task, "gone.yaml")))
        known = lm_eval_tasks.describe_tasks(LmEvalConfig(tasks=(task, "arc_easy")))
        assert len(known[task]) == 64
        assert known["lm_eval"]
        tiny = describe_model(make_tiny_model(tmp_path / "tiny"), "tiny")
        with pytest.raises(EvaluationError, match="lm-eval has no nonsense_task"):
            self.score(tiny, tiny, tasks=("nonsense_task",))
