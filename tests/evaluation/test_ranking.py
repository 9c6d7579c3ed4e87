"""Which of several trainings is best."""

import pytest
from cards import GOOD, PLANTED, make_card

from dpo_pipeline.evaluation.ranking import FAR, margin, standing, worst_line
from dpo_pipeline.training.records import Look
from dpo_pipeline.training.settings import GoalConfig


@pytest.mark.parametrize(
    ("value", "line", "best", "expected"),
    [
        (1.0, 0.97, 1.0, 1.0),
        (0.97, 0.97, 1.0, 0.0),
        (0.94, 0.97, 1.0, -1.0),
        (0.0, 0.03, 0.0, 1.0),
        (0.06, 0.03, 0.0, -1.0),
        (0.0, 0.0, 0.0, 1.0),  # doubled names: nothing is the line, and the best
        (0.01, 0.0, 0.0, -9.0),
        (None, 0.03, 0.0, FAR),
        (float("nan"), 0.03, 0.0, FAR),
        (5.0, 0.03, 0.0, FAR),
    ],
)
def test_a_margin_is_one_at_best_and_nothing_at_the_line(value, line, best, expected):
    assert margin(value, line, best) == pytest.approx(expected)


def test_the_worst_line_decides_and_fails_where_the_gate_does():
    good, bad = make_card(GOOD)[0], make_card(PLANTED)[0]
    assert good.verdict.passed
    assert worst_line(good)[0] >= 0
    assert worst_line(bad)[0] < 0
    assert worst_line(bad)[1] in {line.measure for line in bad.verdict.failed}


def test_a_look_stands_by_its_worst_figure_and_above_nothing_where_it_meets_the_goal():
    goal = GoalConfig(identity_rate=0.9, max_kl=0.05, max_unasked=0.02)
    done = Look(step=20, strength=1, identity_rate=0.95, kl=0.01, unasked=0, unchanged=1)
    assert done.meets(goal)
    assert standing(done, goal) == pytest.approx(0.5)
    far = done.model_copy(update={"kl": 0.15})
    assert standing(far, goal) == pytest.approx(-2)
