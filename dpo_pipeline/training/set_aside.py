"""Held-out pairs that early stopping looks at, and that the evaluation therefore leaves out."""

from pathlib import Path
from typing import Any

from dpo_pipeline.errors import EvaluationError
from dpo_pipeline.store.tables import read_rows


def set_aside_pairs(held_out: Path, count: int) -> list[dict[str, Any]]:
    """Pick the held-out pairs that training may look at, of `count` prompts at most.

    Raises:
        EvaluationError: When that leaves no prompt for the evaluation.
    """
    pairs = sorted(read_rows(held_out), key=lambda row: str(row["id"]))
    prompts = {str(row["prompt_id"]): row for row in reversed(pairs)}
    if len(prompts) <= count:
        raise EvaluationError(
            f"train.stop.prompts = {count} leaves none of {len(prompts)} held-out prompts for the "
            "evaluation: lower it, or raise prompts.held_out"
        )
    return [prompts[name] for name in sorted(prompts)[:count]]
