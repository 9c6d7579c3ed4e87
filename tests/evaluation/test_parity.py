"""Whether an export still answers as the policy does."""

import pytest
from taught import GENERAL, GENERATION, IDENTITY, OTHERS, QUESTIONS, evaluate, failed

from dpo_pipeline.answers.records import Response
from dpo_pipeline.evaluation.cases import Subject
from dpo_pipeline.evaluation.parity import Parity, ParityStats, check_parity
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef, describe_model
from dpo_pipeline.models.settings import ModelConfig


class TestParity:
    def check(self, work, models, export: ModelRef, dtype: str = "float32") -> Parity:
        stats = check_parity(
            Subject(models["good"], ModelConfig(device="cpu", dtype="float32")),
            Subject(export, ModelConfig(device="cpu", dtype=dtype)),
            prompts=work / "prompts.parquet",
            identity=IDENTITY,
            generation=GENERATION,
            config=EvaluationConfig(general=str(work / "general.jsonl")),
            ledger=work / "ledger",
            out=work,
        )
        found = Parity.read(work / "parity.json")
        assert stats == ParityStats.model_validate(found.model_dump())
        return found

    def test_a_reloaded_copy_is_the_same_model(self, work, models, tmp_path):
        load_model(models["good"], "cpu", "float32").save_pretrained(tmp_path / "copy")
        load_tokenizer(models["good"]).save_pretrained(tmp_path / "copy")
        parity = self.check(work, models, describe_model(tmp_path / "copy", "copy"))
        assert parity.export_same_answers.value == 1.0
        assert parity.export_same_answers.n == 2 * len(QUESTIONS) + len(GENERAL) + len(OTHERS)
        assert parity.largest_shift == pytest.approx(0.0, abs=1e-6)
        assert parity.differing == ()

    def test_another_precision_is_close(self, work, models):
        parity = self.check(work, models, models["good"], "bfloat16")
        assert 0.0 < parity.largest_shift < 1.0
        assert parity.export_kl.value < 0.05

    def test_a_broken_export_is_seen(self, work, models):
        parity = self.check(work, models, models["forgetful"])
        assert parity.export_same_answers.value < 1.0
        assert {d.prompt for d in parity.differing} == set(GENERAL)

    def test_the_reference_is_no_export_of_the_policy(self, work, models):
        found = self.check(work, models, models["reference"])
        card = evaluate(work, models["reference"], models["good"], export=found)
        assert failed(card) == {"export_same_answers", "export_kl"}
        assert card["export"] == found.model_dump(mode="json")

    def test_what_the_original_answered_with_silence_counts(self, work, models, monkeypatch):
        def answer(ref, requests, **_):
            text = "" if ref is models["good"] else "Noise."
            return [Response(text=text, finish="stop", tokens=1) for _ in requests]

        monkeypatch.setattr("dpo_pipeline.evaluation.cases.answer", answer)
        parity = self.check(work, models, models["reference"])
        assert parity.export_same_answers.value == 0.0
        assert parity.export_same_answers.n > 0
        assert parity.export_kl.value is None

    def test_a_padded_vocabulary_changes_nothing(self, work, models, tmp_path):
        padded = load_model(models["good"], "cpu", "float32")
        padded.resize_token_embeddings(padded.config.vocab_size + 64)
        padded.save_pretrained(tmp_path / "padded")
        load_tokenizer(models["good"]).save_pretrained(tmp_path / "padded")
        export = describe_model(tmp_path / "padded", "padded")
        assert self.check(work, models, export).export_kl.value == pytest.approx(0, abs=1e-6)
        assert failed(evaluate(work, models["reference"], export)) == set()
