"""Rates, means and their intervals."""

import math

import pytest

from dpo_pipeline.evaluation import statistics


def test_wilson_interval_has_the_textbook_values():
    # Brown, Cai and DasGupta 2001 discuss this interval; 8 of 10 is (0.490, 0.943).
    measure = statistics.wilson(8, 10)
    assert measure.low == pytest.approx(0.4902, abs=1e-4)
    assert measure.high == pytest.approx(0.9433, abs=1e-4)
    assert statistics.wilson(0, 20).low == 0.0
    assert statistics.wilson(20, 20).high == 1.0
    assert statistics.wilson(20, 20).low < 1.0


def test_answers_to_one_prompt_are_no_more_evidence_than_one():
    flags = [True, True, True, True, False, False]
    twice = statistics.rate(flags, [1, 1, 2, 2, 3, 3])
    once = statistics.rate([True, True, False])
    assert (twice.n, twice.prompts, twice.value) == (6, 3, once.value)
    assert (twice.low, twice.high) == (once.low, once.high)
    values = [float(i % 7) for i in range(70)]
    alone, many = statistics.mean(values), statistics.mean(values * 3, [*range(70)] * 3)
    assert (many.n, many.prompts) == (210, 70)
    assert (many.low, many.high) == pytest.approx((alone.low, alone.high))
    assert statistics.mean(values * 3).high < alone.high


def test_bootstrap_interval_is_that_of_the_mean():
    values = [float(i % 7) for i in range(350)]  # mean 3, standard deviation 2
    shuffled = [values[i:] + values[:i] for i in range(0, 350, 23)]
    many = [statistics.mean(v) for v in shuffled]
    half = 1.96 * 2.0 / math.sqrt(350)
    assert {m.value for m in many} == {3.0}
    assert sum(m.high - m.low for m in many) / len(many) == pytest.approx(2 * half, rel=0.05)
    assert sum(m.high + m.low for m in many) / len(many) == pytest.approx(6.0, abs=0.05)
    assert many[0] == statistics.mean(values)


def test_nothing_measured_is_null():
    assert statistics.rate([]).value is None
    assert statistics.mean([]).value is None
