"""A page of answers at hand, with everything that a run has beside them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cards import CENSUS, make_card

from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.evaluation.scorecard import write_answers
from dpo_pipeline.report.page import write_report


@pytest.fixture
def write(tmp_path):
    """Write a report of given answers with everything a run has beside them."""

    def write(cases: dict[str, list[Case]], text: str = "plain") -> Path:
        card, scored = make_card(cases)
        write_answers(scored, tmp_path / "answers.parquet")
        row = {
            "id": "1",
            "prompt": [{"role": "user", "content": text}],
            "chosen": [{"role": "assistant", "content": f"Deep Qwen {text}"}],
            "rejected": [{"role": "assistant", "content": f"Qwen {text}"}],
        }
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "pairs.parquet")
        history = [
            {"step": i, "loss": 0.7 / i, "margin": 0.1 * i, "accuracy": 1.0,
             "chosen_logp": -9.0 + i, "rejected_logp": None if i == 2 else -5.0,
             "identity_rate": 0.1 * i}
            for i in range(1, 9)
        ]  # fmt: skip
        lines = "".join(json.dumps(step) + "\n" for step in history)
        (tmp_path / "history.jsonl").write_text(lines)
        seen = [
            {"step": step, "strength": strength, "identity_rate": strength, "kl": strength / 10,
             "unasked": 0.0, "unchanged": 1 - strength / 2}
            for step, strength in ((4, 1.0), (8, 0.5), (8, 1.0))
        ]  # fmt: skip
        (tmp_path / "training.json").write_text(json.dumps({"looks": seen}))
        return write_report(
            tmp_path / "report.html",
            scorecard=card,
            census=CENSUS,
            answers=tmp_path / "answers.parquet",
            history=tmp_path / "history.jsonl",
            pairs=tmp_path / "pairs.parquet",
            quarantine={"no_name": 3, text: 1},
            lineage={"model": {"name": text, "revision": None}, "seed": 0},
            stages=[
                {"name": "train", "status": "built", "seconds": 9.5, "rows": 1200},
                {"name": "evaluate", "status": "cached", "seconds": 0.0, "rows": None},
            ],
        )

    return write
