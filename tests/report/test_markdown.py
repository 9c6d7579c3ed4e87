"""A scorecard as markdown."""

from cards import PLANTED, make_card

from dpo_pipeline.evaluation.scorecard import write_answers
from dpo_pipeline.report.page import answers_markdown, scorecard_markdown


def test_a_failed_gate_is_told():
    markdown = scorecard_markdown(make_card(PLANTED)[0])
    assert markdown.startswith("# FAILED: Qwen to Deep Qwen")
    assert "- **Leak rate** is 10\u00a0%" in markdown


def dead(markdown: str) -> bool:
    acts = "](" in markdown.replace("\\](", "").replace("]\\(", "")
    return not acts and not any(mark in markdown for mark in ("<img", "http://", "https://"))


def test_a_scorecard_is_dead_text():
    assert dead(scorecard_markdown(make_card(PLANTED)[0]))


def test_answers_are_dead_text_so_many_as_are_asked_for_and_each_in_three_lines(tmp_path):
    scored = make_card(PLANTED)[1]
    write_answers(scored, tmp_path / "answers.parquet")
    for count in (3, 99):
        markdown = answers_markdown(tmp_path / "answers.parquet", count)
        assert dead(markdown)
        lines = [line for line in markdown.splitlines() if line]
        answers = [line for line in lines if line.startswith("- after: ")]
        headings = [line for line in lines if line.startswith("## ")]
        assert len(lines) == 3 * len(answers) + len(headings)
        assert len(answers) <= count
    assert len(answers) > 3
