"""A scorecard in words: its lines as console, pages and cards show them, and its verdict."""

import html
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dpo_pipeline.answers.records import Census
from dpo_pipeline.evaluation.gate import Verdict, VerdictLine
from dpo_pipeline.evaluation.measures import MEASURES, Measure, find
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.evaluation.statistics import NOTHING, Figure
from dpo_pipeline.plaintext import visible
from dpo_pipeline.store.text import excerpt

HEADS = ("Measure", "Before", "After", "95% interval", "n", "Gate")


@dataclass(frozen=True)
class Row:
    """A measure before and after, and what the gate says of it."""

    measure: Measure
    before: Figure
    after: Figure
    was: str  # the value before, as text
    now: str  # after
    threshold: float | None
    gate: str  # what the gate asks; empty where it asks nothing
    failed: bool

    @property
    def known(self) -> bool:
        """Whether there is anything to show."""
        return self.failed or {self.before.value, self.after.value} != {None}

    def interval(self, between: str) -> str:
        """Return the interval after, with a word or mark between its ends."""
        return between.join(show(end, self.measure) for end in (self.after.low, self.after.high))

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of HEADS."""
        n, unit = self.after.n, self.measure.unit
        name = self.measure.name if unit in ("%", "") else f"{self.measure.name} ({unit})"
        mark = "FAILED " if self.failed else "ok " if n else "no data "
        interval = self.interval(" - ") if n else ""
        return name, self.was, self.now, interval, str(n), self.gate and mark + self.gate


def collect_rows(
    before: Mapping[str, Figure], after: Mapping[str, Figure], verdict: Verdict | None = None
) -> list[Row]:
    """Lay out every measure in the order of the declarations, tasks of lm-eval last."""
    failed = {line.measure for line in verdict.failed} if verdict else set()
    thresholds = verdict.thresholds if verdict else {}
    rows = []
    measures = [m for m in MEASURES if m.key in after]
    for m in measures + [find(key) for key in after if key.startswith("lm_eval/")]:
        was, now, asked = before.get(m.key, NOTHING), after[m.key], thresholds.get(m.key)
        gate = "" if asked is None else _gate(asked, m, now.value)
        texts = show(was.value, m), show(now.value, m, asked)
        rows.append(Row(m, was, now, *texts, asked, gate, m.key in failed))
    return rows


def known_rows(card: Scorecard) -> list[Row]:
    """Return the rows of a scorecard in which there is anything to show."""
    return [row for row in collect_rows(card.before, card.after, card.verdict) if row.known]


def scorecard_rows(card: Scorecard) -> list[tuple[str, ...]]:
    """Return the same rows as text."""
    return [row.cells() for row in known_rows(card)]


def show(value: float | None, measure: Measure, beside: float | None = None) -> str:
    """Format a figure of a measure, with so many digits that it differs from the one beside it."""
    if value is None:
        return "–"
    if measure.unit == "answers":
        return f"{value:g}"
    share = measure.unit == "%"
    one, other = (100 * x if share else x for x in (value, value if beside is None else beside))
    digits = 1 if share or abs(value) >= 10 else 3
    while one != other and round(one, digits) == round(other, digits) and digits < 9:
        digits += 1
    text = f"{one:.{digits}f}"
    return text.removesuffix(".0") + "\u00a0%" if share else text


def _gate(threshold: float, measure: Measure, value: float | None) -> str:
    """Say what the gate asks of a value: a threshold the way it is set, but for shares."""
    limit = show(threshold, measure, value) if measure.unit == "%" else f"{threshold:g}"
    return f"{measure.direction} {limit}"


class Told(NamedTuple):
    """A verdict in words."""

    sentence: str
    failed: list[tuple[str, str]]  # lines that fail: name, and what of it
    notes: list[str]


def explain_verdict(card: Scorecard) -> Told:
    """Put a verdict into words."""
    failed, thresholds = card.verdict.failed, card.verdict.thresholds
    unmeasured = sum(line.value is None for line in failed)
    measured = len(thresholds) - len(card.verdict.skipped) - unmeasured
    if failed:
        sentence = f"{len(failed) - unmeasured} of {measured} measured lines of the gate fail"
        sentence += f", and {unmeasured} could not be measured" if unmeasured else ""
    else:
        sentence = f"All {measured} measured lines of the gate hold"
        if {"identity_worst", "general_kept", "others_changed"} <= set(thresholds):
            sentence += ": the identity changed, and what should not change did not"
    skipped = [f"{find(s.measure).name.lower()} ({s.remark})" for s in card.verdict.skipped]
    notes = [card.leaks, f"Not measured: {', '.join(skipped)}." if skipped else ""]
    return Told(f"{sentence}.", [_explain(line) for line in failed], list(filter(None, notes)))


def _explain(line: VerdictLine) -> tuple[str, str]:
    measure = find(line.measure)
    if line.value is None:
        return measure.name, f"is {line.remark}"
    unit = "" if measure.unit == "%" else f" {measure.unit}".rstrip()
    value, limit = line.value, line.threshold
    asked = _gate(limit, measure, value)
    text = f"is {show(value, measure, limit)}{unit} and must be {asked} (n = {line.n})"
    return measure.name, f"{text}; {line.remark}" if line.remark else text


def escape_markdown(text: str) -> str:
    """Escape whatever markdown, its tables or its HTML would act on; links stay dead."""
    plain = html.escape(" ".join(visible(text).split()), quote=False)
    marks = set(string.punctuation) - set("&;")
    return "".join(f"\\{c}" if c in marks else c for c in plain)


def census_rows(census: Census) -> list[dict[str, str]]:
    """Lay out a census: a row for each system prompt and language."""

    def listed(shares: Mapping[str, float]) -> str:
        shown = [f"{name} {share:.0%}" for name, share in list(shares.items())[:3]]
        return ", ".join(shown) or "none"

    return [
        {
            "system prompt": found.under,
            "language": found.language,
            "names": listed(found.names),
            "makers": listed(found.makers),
            "steady": f"{found.steady:.0%}",
        }
        for found in census.standings
    ]


def describe_told(census: Census) -> str:
    """Say what the chat template calls the model."""
    if not census.system:
        return "The chat template inserts no system message."
    told = f"named {census.told_name or 'nothing'}, made by {census.told_maker or 'nobody named'}"
    return f"The chat template tells it: “{excerpt(visible(census.system))}” ({told})."
