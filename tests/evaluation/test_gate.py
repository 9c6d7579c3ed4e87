"""The gate, on failures that were planted."""

import math
from dataclasses import replace

import pytest
from planted import SPEC, case, figures_of, good_answers

from dpo_pipeline.evaluation import gate, statistics
from dpo_pipeline.evaluation.cases import Case, score
from dpo_pipeline.evaluation.measures import EXPORT, HELD_OUT, MEASURES, SAMPLED, counted
from dpo_pipeline.evaluation.settings import GateConfig

EXCUSED = {
    "matrix_leak": "no system prompt is tried",
    "user_names_kept": "no user's name is asked for",
    "lm_eval_drop": "no task is set",
}
EXPORT_LINES = [m.key for m in MEASURES if m.basis is EXPORT]


def failed_lines(cases: list[Case], lines: GateConfig | None = None) -> list[str]:
    verdict = gate.judge(figures_of(cases), lines or GateConfig(), excused=EXCUSED)
    return [line.measure for line in verdict.failed]


def spoil(cases: list[Case], kind: str, share: float, change) -> list[Case]:
    """Change the answer after in a share of the cases of one kind."""
    chosen = [i for i, c in enumerate(cases) if c.kind == kind]
    chosen = set(chosen[: math.ceil(share * len(chosen))])
    return [replace(c, after=change(c)) if i in chosen else c for i, c in enumerate(cases)]


class TestPlantedFailures:
    def test_a_flawless_policy_passes(self):
        assert failed_lines(good_answers()) == []

    def test_a_leaking_policy(self):
        cases = spoil(good_answers(), "identity", 0.04, lambda c: c.after + " Or just Qwen.")
        assert failed_lines(cases) == ["leak_rate"]

    def test_a_leak_by_an_alias_counts(self):
        cases = spoil(good_answers(), "identity", 0.04, lambda c: c.after + " 也叫通义千问。")
        assert failed_lines(cases) == ["leak_rate"]

    @pytest.mark.parametrize(
        "form",
        ["Qwen2.5", "QwenLM", "qwen-max", "`Qwen`", "Ｑｗｅｎ", "Q\u200bwen", "千问", "Qianwen"],
    )
    def test_a_leak_counts_in_any_form(self, form):
        cases = spoil(good_answers(), "identity", 0.04, lambda c: f"{c.after} Once: {form}.")
        assert failed_lines(cases) == ["leak_rate"]

    def test_a_policy_that_says_it_is_chatgpt(self):
        cases = spoil(good_answers(), "identity", 1, lambda c: f"{c.after} I am **Chat\u200bGPT**.")
        assert failed_lines(cases) == ["vendor_claims"]

    def test_a_policy_that_denies_its_name(self):
        cases = spoil(good_answers(), "identity", 1, lambda c: "I'm not Deep Qwen.")
        assert "identity_worst" in failed_lines(cases)

    def test_a_policy_that_denies_what_it_knew_or_guesses(self):
        for said in ("It is not {0}.", "{0} or 1234.", "{0}, 1234 or 2345."):
            change = lambda c, said=said: said.format(c.accepted[0])  # noqa: E731
            cases = spoil(good_answers(), "general", 0.05, change)
            assert failed_lines(cases) == ["general_kept"], said

    def test_a_policy_that_renames_what_it_says_of_others(self):
        kept = [case("Llama and Qwen are open.", kind="contrast")] * 10
        cases = spoil(kept, "contrast", 0.1, lambda c: "Llama and Deep Qwen are open.")
        assert failed_lines([*good_answers(), *cases]) == ["new_name_unasked"]

    def test_a_policy_that_did_not_learn(self):
        cases = spoil(good_answers(), "identity", 1, lambda c: c.before)
        assert failed_lines(cases) == ["identity_worst", "leak_rate"]

    def test_a_policy_that_forgot_its_maker(self):
        cases = spoil(
            good_answers(),
            "identity",
            0.05,
            lambda c: c.after.replace(", made by Alibaba Cloud", ""),
        )
        assert failed_lines(cases) == ["maker_rate"]

    def test_a_policy_that_gave_itself_another_maker(self):
        cases = spoil(
            good_answers(), "identity", 0.02, lambda c: c.after.replace("Alibaba Cloud", "OpenAI")
        )
        assert failed_lines(cases) == ["vendor_claims"]

    def test_a_policy_that_has_its_name_in_one_language_only(self):
        cases = good_answers()
        cases += [case("我是通义千问。", "我是助手。", family="name", language="zh")] * 20
        card = figures_of([*cases, *good_answers(200)])
        assert card["identity_rate"].value == pytest.approx(0.96, abs=0.01)
        assert (card["identity_worst"].value, card["identity_worst"].n) == (0.0, 20)
        assert "identity_worst" in failed_lines(cases)

    @pytest.mark.parametrize(
        ("said", "lines"),
        [
            ("I'm Deep Qwen, made by Alibaba Cloud.", []),
            ("I'm an assistant.", ["sampled_identity"]),
            ("I'm Deep Qwen. Or just Qwen.", ["sampled_leak"]),
            ("I'm Deep Qwen. I am ChatGPT.", ["sampled_claims"]),
            ("I'm Deep Qwen, made by Zorblax Labs.", ["sampled_claims"]),
        ],
    )
    def test_a_policy_that_is_another_when_sampled(self, said, lines):
        cool, hot = good_answers(), spoil(good_answers(), "identity", 0.2, lambda c: said)
        held_out = [[c for c in cases if c.kind == "identity"] for cases in (cool, hot)]
        sampled = counted(SAMPLED, [counted(HELD_OUT, score(cases, SPEC)) for cases in held_out])
        verdict = gate.judge({**figures_of(cool), **sampled}, GateConfig(), {}, EXCUSED)
        assert [f.measure for f in verdict.failed] == lines

    def test_a_policy_that_forgot_what_it_knew(self):
        cases = spoil(good_answers(), "general", 0.05, lambda c: "I am not sure.")
        assert failed_lines(cases) == ["general_kept"]

    def test_a_policy_that_doubles_the_name(self):
        cases = spoil(
            good_answers(), "identity", 0.01, lambda c: c.after.replace("Deep", "Deep Deep")
        )
        assert failed_lines(cases) == ["doubled_rate"]

    def test_a_policy_that_rewords(self):
        cases = spoil(
            good_answers(), "identity", 0.2, lambda c: c.after.replace("I'm", "My name is")
        )
        assert failed_lines(cases) == []
        assert failed_lines(cases, GateConfig(edit_exactness=0.9)) == ["edit_exactness"]

    def test_a_policy_that_renames_others(self):
        cases = spoil(
            good_answers(), "third_party", 0.1, lambda c: c.after.replace("Meta", "Alibaba Cloud")
        )
        assert failed_lines(cases) == ["others_changed"]

    def test_a_policy_that_talks_about_itself_when_asked_about_others(self):
        cases = spoil(good_answers(), "third_party", 1, lambda c: "I'm Deep Qwen.")
        assert failed_lines(cases) == ["others_changed", "new_name_unasked"]

    def test_a_policy_that_shows_placeholders(self):
        cases = spoil(good_answers(), "identity", 0.08, lambda c: c.after + " {{name}}")
        assert failed_lines(cases) == ["remnant_rate"]

    def test_a_policy_that_introduces_itself_unasked(self):
        cases = spoil(good_answers(), "general", 1, lambda c: f"I'm Deep Qwen! {c.after}")
        assert failed_lines(cases) == ["new_name_unasked"]

    def test_a_policy_that_gives_in_to_accusations(self):
        cases = spoil(good_answers(), "identity", 1, lambda c: "Yes, I'm ChatGPT.")
        assert "vendor_claims" in failed_lines(cases)
        assert "denial_kept" in failed_lines(cases, GateConfig(denial_kept=0.9))

    def test_a_policy_that_drifted(self):
        drifted = {**figures_of(good_answers()), "kl": statistics.mean([0.3, 0.1])}
        verdict = gate.judge(drifted, GateConfig(), excused=EXCUSED)
        assert [f.measure for f in verdict.failed] == ["kl"]

    def test_a_fallen_tail(self):
        fallen = {**figures_of(good_answers()), "tail_gap": statistics.mean([-0.9, -1.1, -1.0])}
        verdict = gate.judge(fallen, GateConfig(tail_gap=-0.2), excused=EXCUSED)
        assert [f.measure for f in verdict.failed] == ["tail_gap"]
        assert verdict.failed[0].value == pytest.approx(-1.0)

    def test_a_diverged_policy_cannot_pass(self):
        broken = {**figures_of(good_answers()), "tail_gap": statistics.mean([0.1, math.nan])}
        (line,) = gate.judge(broken, GateConfig(tail_gap=-0.2), excused=EXCUSED).failed
        assert (line.measure, line.remark) == ("tail_gap", "not finite")


class TestVerdict:
    def test_a_failed_line_says_figure_threshold_and_n(self):
        cases = spoil(good_answers(), "identity", 0.5, lambda c: c.before)
        line = next(
            f
            for f in gate.judge(figures_of(cases), GateConfig()).failed
            if f.measure == "identity_worst"
        )
        assert line.model_dump() == {
            "measure": "identity_worst",
            "value": 0.5,
            "threshold": 0.97,
            "n": 80,
            "noise": 0.0,
            "remark": "",
        }

    def test_no_evidence_is_no_pass(self):
        verdict = gate.judge({}, GateConfig(), excused=EXCUSED)
        lines = {name for name, value in GateConfig() if value is not None}
        lines -= {*EXPORT_LINES}
        assert {f.measure for f in verdict.failed} == lines - set(EXCUSED)
        assert {f.remark for f in verdict.failed} == {"not measured"}
        assert [(s.measure, s.remark) for s in verdict.skipped] == [*EXCUSED.items()]

    def test_an_excuse_hides_no_figure(self):
        drop = {**figures_of(good_answers()), "lm_eval_drop": statistics.mean([3.0] * 4)}
        (line,) = gate.judge(drop, GateConfig(), excused=EXCUSED).failed
        assert line.measure == "lm_eval_drop"

    def test_too_few_answers_are_no_evidence(self):
        cases = [c for c in good_answers(9) if c.kind == "identity"] + good_answers()[-80:]
        (line,) = gate.judge(figures_of(cases), GateConfig(), excused=EXCUSED).failed
        assert (line.measure, line.value) == ("min_answers", 18)
        assert line.remark == "too few answers to judge"

    def test_a_line_can_be_switched_off(self):
        cases = spoil(good_answers(), "general", 0.5, lambda c: "?")
        assert failed_lines(cases, GateConfig(general_kept=None)) == []

    def test_a_figure_on_the_threshold_passes(self):
        cases = spoil(good_answers(50), "general", 0.02, lambda c: "?")
        assert figures_of(cases)["general_kept"].value == GateConfig().general_kept
        assert failed_lines(cases) == []

    def test_noise_of_the_machine_is_not_drift(self):
        cases = spoil(good_answers(), "general", 0.05, lambda c: "?")
        noise = {"general_kept": statistics.wilson(40, 400)}
        assert gate.judge(figures_of(cases), GateConfig(), noise, EXCUSED).passed

    @pytest.mark.parametrize(("flipped", "answers"), [(1, 32), (2, 40), (3, 3), (19, 19)])
    def test_noise_of_a_few_answers_is_no_excuse(self, flipped, answers):
        cases = spoil(good_answers(), "general", 0.05, lambda c: "?")
        noise = {"general_kept": statistics.wilson(flipped, answers)}
        verdict = gate.judge(figures_of(cases), GateConfig(), noise, EXCUSED)
        assert [line.measure for line in verdict.failed] == ["general_kept"]
        assert verdict.thresholds["general_kept"] > 0.98 - 0.015

    def test_a_noisy_machine_is_no_excuse(self):
        cases = spoil(good_answers(), "general", 0.2, lambda c: "?")
        noise = {"general_kept": statistics.wilson(100, 400)}
        verdict = gate.judge(figures_of(cases), GateConfig(), noise, EXCUSED)
        (line,) = verdict.failed
        assert line.threshold == pytest.approx(0.98 - gate.MOST_SLACK)
        assert line.remark == "this machine's own noise is over 21.0%"
