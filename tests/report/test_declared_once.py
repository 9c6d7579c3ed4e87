"""A measure is declared in one place, and everything reads that."""

import json
import subprocess
import sys

import pytest
from workplace import ROOT

# Adds a measure before anything else of the project is loaded, and tells where it is seen.
SCRIPT = """
import json
from pathlib import Path
from dpo_pipeline.evaluation import measures
from dpo_pipeline.evaluation.measures import HELD_OUT, STAY, Measure, share

measures.MEASURES += (
    Measure("politeness", "Politeness", "says please", STAY, HELD_OUT,
        lambda scored: share(scored, lambda s: "please" in s.case.after), tile=True,
        gate=0.75, asks="Least share of polite answers."),
)

from cards import CENSUS, GOOD, make_card
from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.evaluation.scorecard import write_answers
from dpo_pipeline.report.page import scorecard_markdown
from dpo_pipeline.report.page import write_report
from dpo_pipeline.report.words import scorecard_rows
from flows.cli import parse

def configured(*argv):
    return parse(PipelineConfig, argv, prog="x", description="x", example="x")

card, scored = make_card(GOOD)
write_answers(scored, Path("answers.parquet"))
page = write_report(Path("page.html"), scorecard=card, census=CENSUS,
    answers=Path("answers.parquet"), history=None, pairs=None, quarantine={}, lineage={}, stages=[])
print(json.dumps({
    "rows": scorecard_rows(card),
    "page": page.read_text(),
    "markdown": scorecard_markdown(card),
    "default": configured().gate.politeness,
    "given": configured("--gate.politeness", "0.5").gate.politeness,
    "verdict": card.verdict.model_dump(),
}))
try:
    configured("--help")
except SystemExit:
    pass
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path_factory.mktemp("declared"),
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told, _, usage = run.stdout.partition("\n")
    return {**json.loads(told), "help": usage}


def test_it_has_a_row(seen):
    row = ["Politeness", "–", "0\u00a0%", "0\u00a0% - 1.9\u00a0%", "200", "FAILED ≥ 75\u00a0%"]
    assert row in seen["rows"]


def test_it_is_on_the_page_and_in_the_markdown(seen):
    assert '<div class="label">Politeness</div>' in seen["page"]
    assert "Politeness<small>says please</small>" in seen["page"]
    assert "<b>Politeness</b> is 0\u00a0% and must be ≥ 75\u00a0%" in seen["page"]
    assert "| Politeness | – | 0\u00a0%" in seen["markdown"]


def test_it_is_a_line_of_the_gate_with_an_option(seen):
    assert (seen["default"], seen["given"]) == (0.75, 0.5)
    assert "--gate.politeness" in seen["help"]
    assert "Least share of polite answers." in seen["help"]
    assert [line["measure"] for line in seen["verdict"]["failed"]] == ["politeness"]
    assert seen["verdict"]["thresholds"]["politeness"] == 0.75
