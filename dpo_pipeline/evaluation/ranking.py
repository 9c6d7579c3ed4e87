"""Which of several trainings is best: how far each is from failing.

Of a figure that is 1 at its best, 0 at its line, and below 0 where it fails: a line of 97 % leaves
room of 3 points, so 98.5 % is at 0.5, and 94 % at -1. The worst line decides.
"""

import math

from dpo_pipeline.evaluation.measures import JUDGED, find
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.training.records import Look
from dpo_pipeline.training.settings import GoalConfig

FAR = -100.0  # what could not be measured, and the least that is told
LEAST_ROOM = 1e-3  # where a line asks for the best that there is


def margin(value: float | None, line: float, best: float) -> float:
    """Say how far a figure is from its line: 1 at its best, 0 at the line, below where it fails."""
    if value is None or not math.isfinite(value):
        return FAR
    away = (best - value) if best > line else (value - best)
    return min(1.0, max(FAR, 1 - away / max(abs(best - line), LEAST_ROOM)))


def worst_line(card: Scorecard) -> tuple[float, str]:
    """Find the line of the gate that is nearest to failing: its margin, and its measure."""
    excused = {line.measure for line in card.verdict.skipped}
    margins = []
    for key, line in card.verdict.thresholds.items():
        measure = find(key)
        if key not in excused and measure.basis is not JUDGED:
            best = 1.0 if measure.unit == "%" and measure.direction == "≥" else 0.0
            value = card.after[key].value if key in card.after else None
            margins.append((margin(value, line, best), key))
    return min(margins, default=(FAR, ""))


def standing(look: Look, goal: GoalConfig) -> float:
    """Say the same of what the tuning split says while training goes on."""
    return min(
        margin(look.identity_rate, goal.identity_rate, best=1.0),
        margin(look.kl, goal.max_kl, best=0.0),
        margin(look.unasked, goal.max_unasked, best=0.0),
    )
