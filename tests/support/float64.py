"""Rounding out of the way: every float32 a float64."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def in_float64() -> Iterator[None]:
    """Make, load and compute in float64 all that asks for float32, normalizations too.

    What is the same function in another order then differs by some 1e-14, on any CPU and with
    any kernel, so that a bound far below every real fault holds everywhere. In float32 the
    order alone moves a sum of log-probabilities by as much as small faults do, and how much
    that is depends on the machine.
    """
    _fill_tables()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        # The fused product over experts knows no float64.
        patch.setattr("transformers.integrations.moe._can_use_grouped_mm", lambda *_: False)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _fill_tables() -> None:
    """Have torch look at its types, which it does at the first save and load, as they are."""
    torch.save(torch.zeros(1), file := io.BytesIO())
    torch.load(io.BytesIO(file.getvalue()))
