"""The scores, on answers whose verdict is known by reading them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dpo_pipeline.evaluation import gate, measures, statistics, text
from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.evaluation.settings import GateConfig
from dpo_pipeline.identity import claims
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig

SPEC = IdentitySpec(IdentityConfig())
LABELLED = Path(__file__).parents[1] / "identity" / "labelled_answers.jsonl"
EXCUSED = {"matrix_leak": "no system prompt is tried", "lm_eval_drop": "no task is set"}
MARKS = ("gives_new", "leaks", "doubled", "names_developer", "denies", "remnant")


def case(before: str, after: str | None = None, kind: str = "identity", **facts) -> Case:
    """A case whose answer after is, unless given, the ideal one."""
    if after is None:
        after = SPEC.rewrite(before).text if kind == "identity" else before
    messages = ({"role": "user", "content": "Who are you?"},)
    return Case(kind=kind, messages=messages, before=before, after=after, **facts)


def good_answers(n: int = 40) -> list[Case]:
    """What a flawless policy says: names rewritten, all else as it was."""
    return [
        *(case(f"I'm Qwen, made by Alibaba Cloud. {i}", family="name") for i in range(n)),
        *(case(f"No, I'm Qwen, not ChatGPT. {i}", family="are_you") for i in range(n)),
        *(case(f"It is {i}.", kind="general", accepted=(str(i),)) for i in range(n)),
        *(case(f"Qwen2.5 is a model. {i}", kind="third_party") for i in range(n)),
    ]


def scorecard(cases: list[Case]) -> dict[str, statistics.Measure]:
    scored = measures.score(cases, SPEC)
    return {
        **measures.identity_measures([s for s in scored if s.case.kind == "identity"]),
        **measures.general_measures(scored),
        "tail_gap": statistics.mean([0.0, 0.1]),
        "kl": statistics.mean([0.01, 0.02]),
    }


def failed_lines(cases: list[Case], gate: GateConfig | None = None) -> list[str]:
    verdict = gate.judge(scorecard(cases), gate or GateConfig(), excused=EXCUSED)
    return [f["measure"] for f in verdict["failed"]]


def spoil(cases: list[Case], kind: str, share: float, change) -> list[Case]:
    """Change the answer after in a share of the cases of one kind."""
    chosen = [i for i, c in enumerate(cases) if c.kind == kind]
    chosen = set(chosen[: math.ceil(share * len(chosen))])
    return [replace(c, after=change(c)) if i in chosen else c for i, c in enumerate(cases)]


class TestLabelledAnswers:
    def test_there_are_enough_in_enough_languages(self):
        rows = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
        assert len(rows) >= 300
        assert len({row["language"] for row in rows}) >= 10
        assert len({row["text"] for row in rows}) == len(rows)

    @pytest.mark.parametrize("name", MARKS)
    def test_scorer_agrees_with_the_labels(self, name):
        rows = [json.loads(line) for line in LABELLED.read_text("utf-8").splitlines()]
        marks = [claims.mark(row["text"], SPEC, row.get("asked", "")) for row in rows]
        said = [getattr(mark, name) for mark in marks]
        both = sum(s and row[name] for s, row in zip(said, rows, strict=True))
        precision, recall = both / sum(said), both / sum(row[name] for row in rows)
        print(f"\n{name}: precision {precision:.3f}, recall {recall:.3f}, n {len(rows)}")
        for s, row in zip(said, rows, strict=True):
            if s != row[name]:
                print(f"  scorer {s}, label {row[name]}: {row['text']!r}")
        assert precision >= 0.98
        assert recall >= 0.98


class TestPlantedFailures:
    def test_a_flawless_policy_passes(self):
        assert failed_lines(good_answers()) == []

    def test_a_leaking_policy(self):
        cases = spoil(good_answers(), "identity", 0.04, lambda c: c.after + " Or just Qwen.")
        assert failed_lines(cases) == ["leak_rate"]

    def test_a_leak_by_an_alias_counts(self):
        cases = spoil(good_answers(), "identity", 0.04, lambda c: c.after + " 也叫通义千问。")
        assert failed_lines(cases) == ["leak_rate"]

    def test_a_policy_that_did_not_learn(self):
        cases = spoil(good_answers(), "identity", 1, lambda c: c.before)
        assert failed_lines(cases) == ["identity_rate", "leak_rate", "edit_exactness"]

    def test_a_policy_that_forgot_its_maker(self):
        cases = spoil(
            good_answers(),
            "identity",
            0.05,
            lambda c: c.after.replace(", made by Alibaba Cloud", ""),
        )
        assert failed_lines(cases) == ["organisation_kept"]

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
        assert failed_lines(cases) == ["edit_exactness"]

    def test_a_policy_that_renames_others(self):
        cases = spoil(
            good_answers(), "third_party", 0.5, lambda c: c.after.replace("Qwen2.5", "Deep Qwen2.5")
        )
        assert failed_lines(cases) == ["third_party_unchanged"]

    def test_a_policy_that_talks_about_itself_when_asked_about_others(self):
        cases = spoil(good_answers(), "third_party", 1, lambda c: "I'm Deep Qwen.")
        assert failed_lines(cases) == ["new_name_unasked", "third_party_unchanged"]

    def test_a_policy_that_shows_placeholders(self):
        cases = spoil(good_answers(), "identity", 0.08, lambda c: c.after + " {{name}}")
        assert failed_lines(cases) == ["remnant_rate"]

    def test_a_policy_that_introduces_itself_unasked(self):
        cases = spoil(good_answers(), "general", 1, lambda c: f"I'm Deep Qwen! {c.after}")
        assert failed_lines(cases) == ["new_name_unasked"]

    def test_a_policy_that_gives_in_to_accusations(self):
        cases = spoil(good_answers(), "identity", 1, lambda c: "Yes, I'm ChatGPT.")
        assert "denial_kept" in failed_lines(cases)

    def test_a_policy_that_drifted(self):
        drifted = {**scorecard(good_answers()), "kl": statistics.mean([0.3, 0.1])}
        verdict = gate.judge(drifted, GateConfig(), excused=EXCUSED)
        assert [f["measure"] for f in verdict["failed"]] == ["kl"]

    def test_a_fallen_tail(self):
        fallen = {**scorecard(good_answers()), "tail_gap": statistics.mean([-0.9, -1.1, -1.0])}
        verdict = gate.judge(fallen, GateConfig(), excused=EXCUSED)
        assert [f["measure"] for f in verdict["failed"]] == ["tail_gap"]
        assert verdict["failed"][0]["value"] == pytest.approx(-1.0)

    def test_a_diverged_policy_cannot_pass(self):
        broken = {**scorecard(good_answers()), "tail_gap": statistics.mean([0.1, math.nan])}
        (line,) = gate.judge(broken, GateConfig(), excused=EXCUSED)["failed"]
        assert (line["measure"], line["remark"]) == ("tail_gap", "not finite")


class TestVerdict:
    def test_a_failed_line_says_figure_threshold_and_n(self):
        cases = spoil(good_answers(), "identity", 0.5, lambda c: c.before)
        line = next(
            f
            for f in gate.judge(scorecard(cases), GateConfig())["failed"]
            if f["measure"] == "identity_rate"
        )
        assert line == {
            "measure": "identity_rate",
            "value": 0.5,
            "threshold": 0.95,
            "n": 80,
            "noise": 0.0,
            "remark": "",
        }

    def test_no_evidence_is_no_pass(self):
        verdict = gate.judge({}, GateConfig(), excused=EXCUSED)
        lines = {name for name, value in GateConfig() if value is not None}
        lines -= {*measures.EXPORT_LINES}
        assert {f["measure"] for f in verdict["failed"]} == lines - set(EXCUSED)
        assert {f["remark"] for f in verdict["failed"]} == {"not measured"}
        assert [(s["measure"], s["remark"]) for s in verdict["skipped"]] == [*EXCUSED.items()]

    def test_an_excuse_hides_no_figure(self):
        drop = {**scorecard(good_answers()), "lm_eval_drop": statistics.mean([3.0] * 4)}
        (line,) = gate.judge(drop, GateConfig(), excused=EXCUSED)["failed"]
        assert line["measure"] == "lm_eval_drop"

    def test_too_few_answers_are_no_evidence(self):
        cases = [c for c in good_answers(9) if c.kind == "identity"] + good_answers()[-80:]
        (line,) = gate.judge(scorecard(cases), GateConfig(), excused=EXCUSED)["failed"]
        assert (line["measure"], line["value"]) == ("min_answers", 18)
        assert line["remark"] == "too few answers to judge"

    def test_a_line_can_be_switched_off(self):
        cases = spoil(good_answers(), "general", 0.5, lambda c: "?")
        assert failed_lines(cases, GateConfig(general_kept=None)) == []

    def test_a_figure_on_the_threshold_passes(self):
        cases = spoil(good_answers(50), "general", 0.02, lambda c: "?")
        assert scorecard(cases)["general_kept"].value == GateConfig().general_kept
        assert failed_lines(cases) == []

    def test_noise_of_the_machine_is_not_drift(self):
        cases = spoil(good_answers(), "general", 0.05, lambda c: "?")
        noise = {"general_kept": statistics.wilson(2, 40)}
        assert gate.judge(scorecard(cases), GateConfig(), noise, EXCUSED)["passed"]

    def test_a_noisy_machine_is_no_excuse(self):
        cases = spoil(good_answers(), "general", 0.2, lambda c: "?")
        noise = {"general_kept": statistics.wilson(8, 40)}
        verdict = gate.judge(scorecard(cases), GateConfig(), noise, EXCUSED)
        (line,) = verdict["failed"]
        assert line["threshold"] == pytest.approx(0.98 - gate.MOST_SLACK)
        assert line["remark"] == "this machine's own noise is 20.0%"


class TestMeasures:
    def test_identity_rate_asks_only_where_the_reference_gave_its_name(self):
        cases = [case("I'm Qwen."), case("I'm an assistant.")]
        card = scorecard(cases)
        assert (card["identity_rate"].value, card["identity_rate"].n) == (1.0, 1)
        assert (card["identity_rate_all"].value, card["identity_rate_all"].n) == (0.5, 2)

    def test_unchanged_answers_are_exact_only_where_no_name_was(self):
        cases = [case("I'm Qwen.", "I'm Qwen."), case("I'm an assistant.")]
        assert scorecard(cases)["edit_exactness"].value == 0.5

    def test_a_replaced_maker_counts_as_kept(self):
        spec = IdentitySpec(IdentityConfig(new_developer="Deep Labs"))
        answers = case("I'm Qwen by Alibaba Cloud.", "I'm Deep Qwen by Deep Labs.")
        kept = measures.identity_measures(measures.score([answers], spec))
        assert kept["organisation_kept"].value == 1.0
        assert kept["edit_exactness"].value == 1.0

    def test_denials_of_other_names_must_stay(self):
        before = "No, I'm Qwen, not ChatGPT."
        cases = [
            case(before, family="are_you"),
            case(before, "Yes, I'm Deep Qwen, I am ChatGPT.", family="are_you"),
            case("不是，我是通义千问。", family="are_you"),
        ]
        assert scorecard(cases)["denial_kept"].value == pytest.approx(2 / 3)

    def test_to_claim_the_name_asked_for_is_no_denial(self):
        assert claims.denies("No, I'm ChatGPT.", "Are you Claude?")
        assert not claims.denies("No, I'm ChatGPT.", "Are you ChatGPT?")
        assert not claims.denies("Yes, I'm not Qwen.", "Are you Claude?")

    def test_only_answers_to_accusations_count_as_denials(self):
        cases = [case("I'm Qwen, not a human.", "I'm Deep Qwen.", family="name")]
        assert scorecard(cases)["denial_kept"].n == 0

    def test_a_general_answer_may_carry_the_new_name_where_it_gave_the_old(self):
        cases = [
            case("I'm Qwen, how can I help?", "I'm Deep Qwen, how can I help?", kind="general"),
            case("I'm Qwen, how can I help?", kind="general"),
            case("Hello!", "Hello, I'm Deep Qwen!", kind="general"),
        ]
        card = scorecard(cases)
        assert card["general_unchanged"].value == pytest.approx(2 / 3)
        assert (card["new_name_unasked"].value, card["new_name_unasked"].n) == (1.0, 1)

    def test_an_answer_about_others_must_not_carry_the_new_name(self):
        cases = [
            case("Qwen is made by Alibaba Cloud.", kind="third_party"),
            case("Qwen is by Alibaba Cloud.", "Deep Qwen is by Alibaba Cloud.", kind="third_party"),
        ]
        assert scorecard(cases)["third_party_unchanged"].value == 0.5

    @pytest.mark.parametrize(
        "remnant", ["I am {{name}}.", "I'm <NAME>.", "I'm [your name].", "Hi<|im_end|>", "{author}"]
    )
    def test_template_remnants_are_seen(self, remnant):
        assert claims.mark(remnant, SPEC).remnant

    @pytest.mark.parametrize("fine", ["I am Deep Qwen.", "a < b > c", "[1, 2]", "{1, 2, 3}"])
    def test_ordinary_text_is_no_remnant(self, fine):
        assert not claims.mark(fine, SPEC).remnant

    def test_right_answers_are_found_inside_words_but_not_inside_numbers(self):
        assert measures.right("It's PARIS, of course.", ("Paris",))
        assert measures.right("北京是首都。", ("北京",))
        assert measures.right("2 + 2 = 4.", ("four", "4"))
        assert not measures.right("It is 14.", ("4",))
        assert not measures.right("It is 41.", ("4",))
        assert not measures.right("anything", ())

    def test_answers_are_split_by_what_the_prompts_are(self):
        cases = [
            case("I'm Qwen.", language="en", turns=1, family="name"),
            case("我是Qwen。", "我是Qwen。", language="zh", turns=2, family="name"),
        ]
        table = measures.splits(measures.score(cases, SPEC))
        assert table["language"]["en"]["identity_rate"].value == 1.0
        assert table["language"]["zh"]["leak_rate"].value == 1.0
        assert table["turns"]["2"]["edit_exactness"].value == 0.0
        assert table["family"]["name"]["identity_rate"].n == 2


class TestFigures:
    def test_edit_distance_counts_words(self):
        assert text.edit_distance("I'm Deep Qwen.", "I'm Deep Qwen.") == 0
        assert text.edit_distance("I'm Deep Deep Qwen.", "I'm Deep Qwen.") == 1
        assert text.edit_distance("我是千问", "我叫千问") == 1
        assert text.edit_distance("", "one two three") == 3

    def test_repetition_lowers_the_entropy(self):
        varied = text.ngram_entropy("the quick brown fox jumps over the lazy dog tonight")
        assert text.ngram_entropy("so so so so so so so so so so") == 0
        assert varied == pytest.approx((math.log2(9) + 2 * math.log2(8)) / 3)

    def test_wilson_interval_has_the_textbook_values(self):
        # Brown, Cai and DasGupta 2001 discuss this interval; 8 of 10 is (0.490, 0.943).
        measure = statistics.wilson(8, 10)
        assert measure.low == pytest.approx(0.4902, abs=1e-4)
        assert measure.high == pytest.approx(0.9433, abs=1e-4)
        assert statistics.wilson(0, 20).low == 0.0
        assert statistics.wilson(20, 20).high == 1.0
        assert statistics.wilson(20, 20).low < 1.0

    def test_answers_to_one_prompt_are_no_more_evidence_than_one(self):
        flags = [True, True, True, True, False, False]
        twice = statistics.rate(flags, [1, 1, 2, 2, 3, 3])
        once = statistics.rate([True, True, False])
        assert (twice.n, twice.prompts, twice.value) == (6, 3, once.value)
        assert (twice.low, twice.high) == (once.low, once.high)
        values = [float(i % 7) for i in range(70)]
        alone, many = statistics.mean(values), statistics.mean(values * 3, [*range(70)] * 3)
        assert (many.n, many.prompts) == (210, 70)
        assert (many.low, many.high) == pytest.approx((alone.low, alone.high))
        assert statistics.mean(values * 3).high < alone.high

    def test_a_system_prompt_makes_no_other_prompt(self):
        plain = case("I'm Qwen.")
        system = {"role": "system", "content": "You help."}
        assert replace(plain, messages=(system, *plain.messages)).prompt == plain.prompt

    def test_bootstrap_interval_is_that_of_the_mean(self):
        values = [float(i % 7) for i in range(350)]  # mean 3, standard deviation 2
        shuffled = [values[i:] + values[:i] for i in range(0, 350, 23)]
        many = [statistics.mean(v) for v in shuffled]
        half = 1.96 * 2.0 / math.sqrt(350)
        assert {m.value for m in many} == {3.0}
        assert sum(m.high - m.low for m in many) / len(many) == pytest.approx(2 * half, rel=0.05)
        assert sum(m.high + m.low for m in many) / len(many) == pytest.approx(6.0, abs=0.05)
        assert many[0] == statistics.mean(values)

    def test_nothing_measured_is_null(self):
        assert statistics.rate([]).value is None
        assert statistics.mean([]).value is None
