"""Lines of a scorecard as text, and its verdict in words."""

import pytest
from cards import EXCUSED, GOOD, PLANTED, make_card

from dpo_pipeline.evaluation import gate, statistics
from dpo_pipeline.evaluation.measures import EXPORT, MEASURES
from dpo_pipeline.evaluation.settings import GateConfig
from dpo_pipeline.report.words import collect_rows, explain_verdict, scorecard_rows


def test_what_was_not_measured_is_told_and_not_counted(write):
    page = write(GOOD).read_text("utf-8")
    top = page[page.index('id="verdict"') : page.index("Main figures")]
    lines = {name for name, limit in GateConfig() if limit is not None}
    lines -= {*(m.key for m in MEASURES if m.basis is EXPORT), *EXCUSED}
    assert f"All {len(lines)} measured lines of the gate hold: the identity" in top
    assert "names kept (the reference never told a user" in top
    failed = explain_verdict(make_card({"held_out": [], "general": []})[0])
    assert failed.sentence.startswith("0 of 1 measured lines of the gate fail, and ")
    assert ("Knowledge kept", "is not measured") in failed.failed


def test_nothing_is_claimed_of_what_no_line_asked():
    card = make_card(GOOD)[0]
    del card.verdict.thresholds["others_changed"]
    assert explain_verdict(card).sentence.endswith("lines of the gate hold.")


def test_rows_say_measure_before_after_interval_n_and_gate():
    rows = {row[0]: row for row in scorecard_rows(make_card(GOOD)[0])}
    assert rows["Maker right"] == (
        "Maker right",
        "–",
        "100\u00a0%",
        "98.1\u00a0% - 100\u00a0%",
        "200",
        "ok ≥ 95\u00a0%",
    )
    assert rows["Rest of the sentence (nats per token)"][2] == "-0.015"


def test_a_line_without_any_figure_is_left_out_unless_it_failed():
    card = make_card({"held_out": [], "general": []})[0]
    gates = {row[0]: row[5] for row in scorecard_rows(card)}
    assert gates["Leak rate"] == "FAILED ≤ 1\u00a0%"
    assert gates["KL to the reference (nats per token)"] == "ok ≤ 0.03"
    assert gates["Reward margin"] == ""
    assert not {"Denials kept", "Identity, trained"} & set(gates)


def test_tasks_of_lm_eval_are_lines_of_their_own():
    card = make_card(GOOD)[0]
    card.before["lm_eval/arc_easy"] = card.after["lm_eval/arc_easy"] = statistics.wilson(3, 4)
    card.after["lm_eval_drop"] = statistics.mean([3.0] * 4)
    judged = card.model_copy(update={"verdict": gate.judge(card.after, GateConfig())})
    rows = {row[0]: row for row in scorecard_rows(judged)}
    assert rows["arc_easy"][1:3] == ("75\u00a0%", "75\u00a0%")
    assert rows["Largest drop (points)"][5] == "FAILED ≤ 2"


def test_a_failed_gate_is_told():
    rows = {row[0]: row for row in scorecard_rows(make_card(PLANTED)[0])}
    assert rows["Leak rate"][5] == "FAILED ≤ 1\u00a0%"


CLOSE = {
    "a share": ("leak_rate", 0.0100299, 0.01, "is 1.003\u00a0% and must be ≤ 1.000\u00a0% (n = 9)"),
    "a loosened line": (
        "general_kept",
        0.9712,
        0.97123,
        "97.120\u00a0% and must be ≥ 97.123",
    ),
    "nats": ("kl", 0.03004, 0.03, "is 0.03004 nats per token and must be ≤ 0.03 (n = 9)"),
    "far apart": ("leak_rate", 0.5, 0.01, "is 50\u00a0% and must be ≤ 1\u00a0% (n = 9)"),
}


@pytest.mark.parametrize(("measure", "value", "threshold", "said"), CLOSE.values(), ids=CLOSE)
def test_a_figure_is_told_so_that_it_can_be_compared_with_its_line(measure, value, threshold, said):
    card = make_card(GOOD)[0]
    failed = gate.VerdictLine(measure=measure, value=value, threshold=threshold, n=9, noise=0)
    verdict = gate.Verdict(
        passed=False, failed=[failed], skipped=[], thresholds={measure: threshold}
    )
    ((_, text),) = explain_verdict(card.model_copy(update={"verdict": verdict})).failed
    assert said in text
    figures = {measure: statistics.NOTHING.model_copy(update={"value": value, "n": 9})}
    (row,) = collect_rows({}, figures, verdict)
    assert f"is {row.now}" in text
    assert row.gate in text
