"""Rates and means with their intervals."""

import math
from collections.abc import Collection, Hashable, Iterable, Sequence

from dpo_pipeline.store.records import Record


class Figure(Record):
    """A value, the answers and prompts it rests on, and its 95% interval; null where n is 0."""

    value: float | None
    n: int
    prompts: int
    low: float | None
    high: float | None


NOTHING = Figure(value=None, n=0, prompts=0, low=None, high=None)


def wilson(hits: int, n: int, prompts: int | None = None) -> Figure:
    """Rate of hits among n answers to so many prompts, with its 95% Wilson score interval.

    Answers to one prompt are alike, so the number of prompts (null: each answer has its own) is
    the sample size: the design effect n / prompts, that of answers that agree fully within a
    prompt, errs on the wide side.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; design effect: Kish 1965, Survey
        Sampling, section 5.4.
    """
    if n == 0:
        return NOTHING
    size, z, p = prompts or n, 1.959964, hits / n
    centre = (p + z * z / (2 * size)) / (1 + z * z / size)
    half = z * math.sqrt(p * (1 - p) / size + z * z / (4 * size * size)) / (1 + z * z / size)
    low, high = (centre - half if hits else 0.0), (centre + half if hits < n else 1.0)
    return Figure(value=p, n=n, prompts=size, low=low, high=high)


def rate(flags: Iterable[bool], prompts: Collection[Hashable] = ()) -> Figure:
    """Share of true flags, one an answer to a prompt, with its Wilson interval."""
    known = list(flags)
    return wilson(sum(known), len(known), len(set(prompts)) or None)


def mean(values: Sequence[float], prompts: Sequence[Hashable] = ()) -> Figure:
    """Mean with its 95% percentile bootstrap interval (1,000 resamples, fixed seed).

    Prompts are resampled, with all their values; without prompts, each value is of another. One
    that is not finite makes the mean null, so that no gate line can pass on it.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    groups: dict[Hashable, int] = {}
    places = [groups.setdefault(p, len(groups)) for p in prompts or range(len(values))]
    if not all(math.isfinite(v) for v in values) or not values:
        return Figure(value=None, n=len(values), prompts=len(groups), low=None, high=None)
    import numpy as np

    sums, sizes = np.bincount(places, values), np.bincount(places)
    picks = np.random.default_rng(0).integers(0, len(groups), size=(1000, len(groups)))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = map(float, np.percentile(means, (2.5, 97.5)))
    value = float(np.mean(values))
    return Figure(value=value, n=len(values), prompts=len(groups), low=low, high=high)
