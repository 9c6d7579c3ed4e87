"""A scorecard as markdown."""

import re

from cards import PLANTED, make_card

from dpo_pipeline.report.page import scorecard_markdown


def test_a_failed_gate_is_told():
    markdown = scorecard_markdown(make_card(PLANTED)[0])
    assert markdown.startswith("# FAILED: Qwen to Deep Qwen")
    assert "- **Leak rate** is 10\u00a0%" in markdown


def test_markdown_is_dead_text():
    markdown = scorecard_markdown(make_card(PLANTED)[0])
    assert "<img" not in markdown
    assert "](" not in markdown.replace("\\](", "").replace("]\\(", "")
    assert "http://" not in markdown
    assert "https://" not in markdown
    # The table of answers: 3 columns, so 4 unescaped pipes in every row.
    rows = markdown[markdown.index("| Prompt") :].splitlines()
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows if row} == {4}
