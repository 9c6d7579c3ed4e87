"""The lines of a scorecard, as console, page, cards and artifacts show them."""

from collections.abc import Mapping
from dataclasses import dataclass

from dpo_pipeline.evaluation.gate import Verdict
from dpo_pipeline.evaluation.measures import MEASURES, Measure, find
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.evaluation.statistics import NOTHING, Figure
from dpo_pipeline.report.words import show, show_threshold

HEADS = ("Measure", "Before", "After", "95% interval", "n", "Gate")
Cells = tuple[str, str, str, str, str, str]


@dataclass(frozen=True)
class Row:
    """A measure before and after, and what the gate says of it."""

    measure: Measure
    before: Figure
    after: Figure
    threshold: float | None = None
    failed: bool = False

    @property
    def known(self) -> bool:
        """Whether there is anything to show."""
        return self.failed or {self.before.value, self.after.value} != {None}

    @property
    def was(self) -> str:
        """The value before."""
        return show(self.before.value, self.measure)

    @property
    def now(self) -> str:
        """The value after."""
        return show(self.after.value, self.measure)

    def interval(self, between: str) -> str:
        """Return the interval after, with a word or mark between its ends."""
        return between.join(show(end, self.measure) for end in (self.after.low, self.after.high))

    @property
    def gate(self) -> str:
        """What the gate asks; empty where it asks nothing."""
        if self.threshold is None:
            return ""
        return f"{self.measure.direction} {show_threshold(self.threshold, self.measure)}"

    def cells(self) -> Cells:
        """Return the row as text, in the order of HEADS."""
        n, unit = self.after.n, self.measure.unit
        name = self.measure.name if unit in ("%", "") else f"{self.measure.name} ({unit})"
        mark = "FAILED " if self.failed else "ok " if n else "no data "
        interval = self.interval(" - ") if n else ""
        gate = mark + self.gate if self.gate else ""
        return name, self.was, self.now, interval, str(n), gate


def collect_rows(
    before: Mapping[str, Figure], after: Mapping[str, Figure], verdict: Verdict | None = None
) -> list[Row]:
    """Lay out every measure in the order of the declarations, tasks of lm-eval last."""
    failed = {line.measure for line in verdict.failed} if verdict else set()
    thresholds = verdict.thresholds if verdict else {}
    measures = [m for m in MEASURES if m.key in after]
    measures += [find(key) for key in after if key.startswith("lm_eval/")]
    return [
        Row(m, before.get(m.key, NOTHING), after[m.key], thresholds.get(m.key), m.key in failed)
        for m in measures
    ]


def known_rows(card: Scorecard) -> list[Row]:
    """Return the rows of a scorecard in which there is anything to show."""
    return [row for row in collect_rows(card.before, card.after, card.verdict) if row.known]


def scorecard_rows(card: Scorecard) -> list[Cells]:
    """Return measure, before, after, 95% interval, n and gate of every measure, as text."""
    return [row.cells() for row in known_rows(card)]
