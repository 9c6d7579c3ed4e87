"""Training's history as the polylines of charts."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Points = list[tuple[int, float]]

# Title -> lines of the chart: key in the history, and name.
CURVES = {
    "Loss": {"loss": "loss"},
    "Reward margin": {"margin": "margin"},
    "Preference accuracy": {"accuracy": "accuracy"},
    "Held-out prompts": {"identity_rate": "identity rate", "edit_exactness": "exactness"},
    "Log-probability (nats)": {"chosen_logp": "chosen", "rejected_logp": "rejected"},
}


class Chart(NamedTuple):
    """Lines (name, last value, points of a polyline) in a box of 100 by 100."""

    title: str
    low: str
    high: str
    steps: int
    lines: list[tuple[str, str, str]]


def draw_curves(path: Path | None) -> list[Chart]:
    """Lay history.jsonl out; a line of fewer than two points is left out."""
    if path is None:
        return []
    history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    charts = []
    for title, series in CURVES.items():
        lines = {name: _points(history, key) for key, name in series.items()}
        if drawn := {name: points for name, points in lines.items() if len(points) > 1}:
            charts.append(_chart(title, drawn))
    return charts


def _points(history: Sequence[Mapping[str, Any]], key: str) -> Points:
    """Pick step and value where a step has one that can be drawn."""
    found = ((row["step"], row.get(key)) for row in history)
    return [(s, v) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]


def _chart(title: str, lines: Mapping[str, Points]) -> Chart:
    steps, values = zip(*(point for points in lines.values() for point in points), strict=True)
    left, low = min(steps), min(values)
    across, up = (max(steps) - left) or 1, (max(values) - low) or 1

    def place(step: int, value: float) -> str:
        return f"{100 * (step - left) / across:.2f},{100 - 100 * (value - low) / up:.2f}"

    drawn = [
        (name, f"{points[-1][1]:.3g}", " ".join(place(*point) for point in points))
        for name, points in lines.items()
    ]
    return Chart(title, f"{low:.3g}", f"{max(values):.3g}", max(steps), drawn)
