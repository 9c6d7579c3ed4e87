"""The gate: a scorecard held against its thresholds."""

from collections.abc import Mapping
from typing import Any

from dpo_pipeline.evaluation.measures import AT_MOST, EXPORT_LINES
from dpo_pipeline.evaluation.settings import GateConfig
from dpo_pipeline.evaluation.statistics import NOTHING, Measure

# The most that a machine's own noise may loosen a gate line by.
MOST_SLACK = 0.05


def judge(
    measures: Mapping[str, Measure],
    gate: GateConfig,
    noise: Mapping[str, Measure] | None = None,
    excused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Hold the scorecard against the thresholds.

    A line that is switched on and was not measured fails, unless there is a reason for it. A
    change that the reference shows against itself is not held against the policy: the noise
    of a measure loosens its threshold by that much, up to MOST_SLACK.

    Args:
        measures: The scorecard after training.
        gate: Field name = measure name; null switches a line off, and so does an export's
            where there is none.
        noise: Measure -> share that the reference changes against itself.
        excused: Measure -> why it could not be measured.
    Returns:
        passed; failed and skipped: measure, value, threshold, n, noise and remark of each such
        line; thresholds: of all lines that are switched on, as loosened by the noise.
    """
    noise, excused = noise or {}, excused or {}
    answers = measures.get("leak_rate", NOTHING).n
    counted = Measure(value=answers, n=answers, prompts=answers, low=answers, high=answers)
    figures = {**measures, "min_answers": counted if answers else NOTHING}
    thresholds: dict[str, float] = {}
    failed, skipped = [], []
    for name, asked in gate:
        if asked is None or (name in EXPORT_LINES and name not in measures):
            continue
        measure, own = figures.get(name, NOTHING), noise.get(name, NOTHING).value or 0.0
        sign = 1 if name in AT_MOST else -1
        thresholds[name] = threshold = asked + sign * min(own, MOST_SLACK)
        line = {
            "measure": name,
            "value": measure.value,
            "threshold": threshold,
            "n": measure.n,
            "noise": own,
        }
        if not measure.n and name in excused:
            skipped.append({**line, "remark": excused[name]})
        elif measure.value is None:
            failed.append({**line, "remark": "not finite" if measure.n else "not measured"})
        elif sign * (measure.value - threshold) > 0:
            failed.append({**line, "remark": _remark(name, own)})
    return {
        "passed": not failed,
        "failed": failed,
        "skipped": skipped,
        "thresholds": thresholds,
    }


def _remark(name: str, own: float) -> str:
    if name == "min_answers":
        return "too few answers to judge"
    return f"this machine's own noise is {own:.1%}" if own > MOST_SLACK else ""
