"""Where leaks come from, and how noisy the machine is."""

from dataclasses import replace

from taught import GENERATION, IDENTITY, NEUTRAL

from dpo_pipeline.answers.records import Response
from dpo_pipeline.evaluation import cases, robustness, statistics
from dpo_pipeline.evaluation.measures import MATRIX, counted
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.models.settings import ModelConfig


def worst_leak(matrix) -> float | None:
    return counted(MATRIX, robustness.unprompted_leaks(matrix))["matrix_leak"].value


class TestLeaks:
    def matrix(self, **leaks: float) -> dict:
        names = cases.matrix_systems(IDENTITY)
        rates = {n: statistics.wilson(round(16 * leaks.get(n.split()[0], 0)), 16) for n in names}
        return {n: {"after": {"leak_rate": rate}} for n, rate in rates.items()}

    def told(self, names_original=False, **leaks: float) -> tuple[str, float | None]:
        matrix = self.matrix(**leaks)
        said = robustness.explain_leaks(matrix, names_original)
        return said, worst_leak(matrix)

    def test_it_says_where_the_old_name_comes_from(self):
        assert self.told()[0].startswith("No leak under any system prompt tried: none sent,")
        told = "Still leaks with system prompt “empty” (44%, n 16): from the weights."
        assert self.told(empty=7 / 16, original=1.0) == (told, 7 / 16)
        told = "Leaks only where a system prompt gives the old name (25%, n 16)."
        assert self.told(original=0.25) == (told, 0.0)
        told = "The old name is not heard, which says nothing"
        assert robustness.explain_leaks(self.matrix(), False, wrecked=True).startswith(told)
        assert "“none sent” (100%, n 16): from the weights" in self.told(none=1.0)[0]
        told = "Leaks only where the chat template gives the old name (100%, n 16)."
        assert self.told(names_original=True, none=1.0) == (told, 1.0)

    def test_without_a_matrix_nothing_is_said(self):
        assert robustness.explain_leaks({}, True) == ""
        assert robustness.explain_leaks({}, False, wrecked=True) == ""
        assert worst_leak({}) is None


def test_noise_is_what_the_reference_changes_when_alone(work, models, tmp_path, monkeypatch):
    limits = EvaluationConfig(general=str(work / "general.jsonl"))
    plan = cases.plan_cases(work / "prompts.parquet", IDENTITY, (None, NEUTRAL), limits)
    groups = {
        "held_out": [replace(c, before="I'm Qwen by Alibaba Cloud.") for c in plan["held_out"]],
        "general": [replace(c, before=a) for c in plan["general"] for a in c.accepted],
    }

    def answer(ref, requests, *, config, ledger, **_):
        assert config.batch_tokens == robustness.BATCH_TOKENS
        assert not list(ledger.iterdir())
        return [Response(text="I'm Qwen.", finish="stop", tokens=3) for _ in requests]

    monkeypatch.setattr(cases, "answer", answer)
    asker = cases.Asker(GENERATION, 24, work / "ledger")
    spec, raw = IdentitySpec(IDENTITY), cases.Subject(models["raw"], ModelConfig(device="cpu"))
    noise = robustness.machine_noise(raw, groups, spec, asker, 3, tmp_path)
    assert {name: (m.value, m.n) for name, m in noise.items()} == {
        "edit_exactness": (1.0, 3),
        "general_kept": (1.0, 2),
    }
    assert not list(tmp_path.glob("tmp*"))
