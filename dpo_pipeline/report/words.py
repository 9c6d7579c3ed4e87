"""Figures and verdicts in words."""

import re
from typing import NamedTuple

from dpo_pipeline.evaluation.gate import VerdictLine
from dpo_pipeline.evaluation.measures import Measure, find
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.evaluation.statistics import Figure

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


class Told(NamedTuple):
    """A verdict in words: one sentence, the lines that fail (name, what of it), and notes."""

    sentence: str
    failed: list[tuple[str, str]]
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
        if {"identity_rate", "general_kept", "third_party_unchanged"} <= set(thresholds):
            sentence += ": the identity changed, and what should not change did not"
    skipped = [f"{find(s.measure).name.lower()} ({s.remark})" for s in card.verdict.skipped]
    notes = [card.leaks, f"Not measured: {', '.join(skipped)}." if skipped else ""]
    return Told(f"{sentence}.", [_explain(line) for line in failed], list(filter(None, notes)))


def _explain(line: VerdictLine) -> tuple[str, str]:
    """Say of a line that fails what it is and what it must be."""
    measure = find(line.measure)
    if line.value is None:
        return measure.name, f"is {line.remark}"
    unit = "" if measure.unit == "%" else f" {measure.unit}".rstrip()
    asked = f"{measure.direction} {show_threshold(line.threshold, measure)}"
    text = f"is {show(line.value, measure)}{unit} and must be {asked} (n = {line.n})"
    return measure.name, f"{text}; {line.remark}" if line.remark else text


def show(value: float | None, measure: Measure) -> str:
    """Format a figure of a measure."""
    if value is None:
        return "–"
    if measure.unit == "%":
        return f"{100 * value:.1f}".removesuffix(".0") + "\u00a0%"
    if measure.unit == "answers":
        return f"{value:g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def show_threshold(value: float, measure: Measure) -> str:
    """Format a threshold the way it is set, but for shares."""
    return show(value, measure) if measure.unit == "%" else f"{value:g}"


def show_evidence(figure: Figure) -> str:
    """Say how much a figure rests on."""
    n, prompts = figure.n, figure.prompts
    return f"n = {n}" if n == prompts else f"{prompts} prompts, {n} answers"


def visible(text: str) -> str:
    """Spell out characters that cannot be seen or that turn the writing direction."""
    return _INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)
