"""Figures and verdicts in words."""

from cards import EXCUSED, GOOD, make_card

from dpo_pipeline.evaluation.measures import EXPORT, MEASURES
from dpo_pipeline.evaluation.settings import GateConfig
from dpo_pipeline.report.words import explain_verdict


def test_what_was_not_measured_is_told_and_not_counted(write):
    page = write(GOOD).read_text("utf-8")
    top = page[page.index('id="verdict"') : page.index("Main figures")]
    lines = {name for name, limit in GateConfig() if limit is not None}
    lines -= {*(m.key for m in MEASURES if m.basis is EXPORT), *EXCUSED}
    assert f"All {len(lines)} measured lines of the gate hold: the identity" in top
    assert "Not measured: denials kept (the reference never denied being another)" in top
    failed = explain_verdict(make_card({"held_out": [], "general": []})[0])
    assert failed.sentence.startswith("0 of 2 measured lines of the gate fail, and ")
    assert ("Knowledge kept", "is not measured") in failed.failed


def test_nothing_is_claimed_of_what_no_line_asked():
    card = make_card(GOOD)[0]
    del card.verdict.thresholds["third_party_unchanged"]
    assert explain_verdict(card).sentence.endswith("lines of the gate hold.")
