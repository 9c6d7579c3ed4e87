"""The gate: measured figures held against its lines."""

from collections.abc import Mapping

from dpo_pipeline.evaluation.measures import ENOUGH, EXPORT, JUDGED, MEASURES, counted, find
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.evaluation.statistics import NOTHING, Figure
from dpo_pipeline.store.records import Record

WRECKED = 5  # so many times its line is a KL that leaves little of a model
MOST_SLACK = 0.05  # the most that a machine's own noise may loosen a gate line by


class VerdictLine(Record):
    """A line of the gate that fails or is skipped."""

    measure: str
    value: float | None
    threshold: float
    n: int
    noise: float
    remark: str = ""


class Verdict(Record):
    """What the gate says; thresholds are those of all lines, as loosened by the noise."""

    passed: bool
    failed: tuple[VerdictLine, ...]
    skipped: tuple[VerdictLine, ...]
    thresholds: dict[str, float]


def judge(
    figures: Mapping[str, Figure],
    gate: GateConfig,
    noise: Mapping[str, Figure] | None = None,
    excused: Mapping[str, str] | None = None,
) -> Verdict:
    """Hold the scorecard against the thresholds.

    A line that is on and was not measured fails, unless there is a reason to excuse it; a line of
    the export is off where there is none. A change that the reference shows against itself is
    not held against the policy: noise loosens a threshold by what is sure of it, the lower end of
    its interval, up to MOST_SLACK. Of a few answers nothing is sure.
    """
    noise, excused = noise or {}, excused or {}
    figures = {**figures, **counted(JUDGED, figures.get("leak_rate", NOTHING))}
    thresholds: dict[str, float] = {}
    failed, skipped = [], []
    for measure in MEASURES:
        name, asked = measure.key, getattr(gate, measure.key, None)
        if asked is None or (measure.basis is EXPORT and name not in figures):
            continue
        figure, own = figures.get(name, NOTHING), _sure(noise.get(name, NOTHING))
        sign = 1 if measure.direction == "≤" else -1
        thresholds[name] = threshold = asked + sign * min(own, MOST_SLACK)
        line = VerdictLine(
            measure=name, value=figure.value, threshold=threshold, n=figure.n, noise=own
        )
        if not figure.n and name in excused:
            skipped.append(line.model_copy(update={"remark": excused[name]}))
        elif figure.value is None or sign * (figure.value - threshold) > 0:
            failed.append(line.model_copy(update={"remark": _remark(line)}))
    return Verdict(passed=not failed, failed=failed, skipped=skipped, thresholds=thresholds)


def _sure(noise: Figure) -> float:
    return noise.low or 0.0 if noise.n >= ENOUGH else 0.0


def is_wrecked(figures: Mapping[str, Figure], gate: GateConfig) -> bool:
    """Tell whether so much is gone that the absence of anything says nothing."""
    line = getattr(gate, "kl", None) or find("kl").gate or 0.0
    given, kl = (figures.get(name, NOTHING) for name in ("identity_rate", "kl"))
    far = kl.n > 0 and (kl.value is None or kl.value > WRECKED * line)
    return far or (given.n > 0 and (given.value or 0.0) < 0.5)


def _remark(line: VerdictLine) -> str:
    if line.value is None:
        return "not finite" if line.n else "not measured"
    if line.measure == "min_answers":
        return "too few answers to judge"
    return f"this machine's own noise is over {line.noise:.1%}" if line.noise > MOST_SLACK else ""


def excuses(before: Mapping[str, Figure], config: EvaluationConfig) -> dict[str, str]:
    """Say which lines of the gate have nothing to measure, and why."""
    reasons = {}
    for measure in MEASURES:
        setting = measure.basis.setting
        if measure.absent and not before.get(measure.key, NOTHING).n:
            reasons[measure.key] = measure.absent
        elif setting and not getattr(config, setting):
            none = "no task of lm-eval is set" if setting == "lm_eval" else None
            reasons[measure.key] = none or f"evaluation.{setting} is 0"
    return reasons
