"""The page that compares runs, e.g. of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.report.rendering import render
from dpo_pipeline.report.rows import collect_rows


@dataclass(frozen=True)
class Compared:
    """One of the runs; its settings are those that differ, its steps those of training."""

    name: str
    settings: Mapping[str, object]
    scorecard: Scorecard
    steps: int


def write_comparison(out: Path, runs: Sequence[Compared]) -> Path:
    """Write a page that compares runs; returns its path."""
    cards = [run.scorecard for run in runs]
    tables = [
        {row.measure: row for row in collect_rows(card.before, card.after, card.verdict)}
        for card in cards
    ]
    lines = [
        (measure, [table[measure] for table in tables])
        for measure in tables[0]
        if all(measure in table for table in tables) and any(t[measure].known for t in tables)
    ]
    # Settings that the names of the runs do not tell already.
    names = dict.fromkeys(key for run in runs for key in run.settings)
    untold = [name for name in names if not all(name in run.name for run in runs)]
    return render(out, "compare.html.j2", runs=runs, settings=untold, measures=lines)
