"""A run that fails leaves its story: why, at which stage, and the rows that were refused."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from runs_in_turn import in_turn
from workplace import Workplace

from dpo_pipeline.starter.build import STARTER

pytestmark = pytest.mark.slow

SMALL = {
    "prompts.limit": 60,
    "generation.max_new_tokens": 24,
    "train.max_steps": 2,
    "train.goal": None,
    "train.batch_size": 4,
    "evaluation.max_prompts": 6,
    "evaluation.matrix_prompts": 0,
    "evaluation.noise_prompts": 4,
}


class Fault(NamedTuple):
    """A run that cannot succeed, and what is to be known of it afterwards."""

    settings: dict[str, Any]
    says: tuple[str, ...]
    stage: str | None = None
    refused: int = 0  # rows in the quarantine that is kept
    flow: str = "full"


def jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def faults(folder: Path) -> dict[str, Fault]:
    bad = [{"prompt": f"Who are you, {n}?" if n % 2 else ""} for n in range(20)]
    worse = [{"prompt": "Hi", "chosen": "A", "rejected": "A" if n else "B"} for n in range(9)]
    absent = str(folder / "absent")
    broken = shutil.copytree(STARTER, folder / "broken")
    (broken / "model.safetensors").write_bytes(b"cut")
    return {
        "no source": Fault({"prompts.source": f"{absent}.jsonl"}, ("DataError", "absent.jsonl")),
        "no model": Fault({"model.name": absent}, ("ModelError", "absent")),
        "a broken model": Fault({"model.name": str(broken)}, ("ModelError",)),
        "no general questions": Fault({"evaluation.general": absent}, ("DataError", "absent")),
        "bad rows": Fault(
            {"prompts.source": jsonl(folder / "bad.jsonl", bad)},
            ("DataError", "10 of 20 rows", "empty_prompt 10 (row 0, 2, 4, 6, 8, ...: "),
            stage="download", refused=10,
        ),
        "few pairs": Fault(
            {"pairs.min_pairs": 10_000},
            ("DataError", "pairs.min_pairs", "no_name ", "; row "),
            stage="save", refused=15,
        ),
        "bad preferences": Fault(
            {"prompts.source": jsonl(folder / "worse.jsonl", worse)},
            ("DataError", "1 usable pairs of 9 rows", "identical 8 ", "; row 1, 2, 3, 4, 5, ...)"),
            stage="prepare", refused=8, flow="preference",
        ),
        "training that diverges": Fault(
            {"train.learning_rate": 1e30}, ("TrainingError", "train.learning_rate"), stage="train"
        ),
    }  # fmt: skip


def test_a_run_that_fails_leaves_its_story(server, tmp_path, record_property):
    place, tried = Workplace(tmp_path), faults(tmp_path)
    asked = [
        {"flow": f.flow, "settings": f.settings if f.flow != "full" else SMALL | f.settings}
        for f in tried.values()
    ]
    *failed, judged = in_turn(place, server, [*asked, {"settings": SMALL | {"gate.kl": 0.0}}])
    for (name, fault), run in zip(tried.items(), failed, strict=True):
        assert run["state"] == "Failed", name
        (folder,) = map(Path, run["folders"])
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["error"]["stage"] == fault.stage, name
        for told in (run["raised"], summary["error"]["message"]):
            assert [part for part in fault.says if part not in told] == [], told
        if fault.refused:
            assert pq.read_metadata(summary["paths"]["quarantine"]).num_rows == fault.refused
    (folder,) = map(Path, judged["folders"])
    summary = json.loads((folder / "summary.json").read_text())
    assert judged["state"] == "GateFailed"
    assert "kl" in [line["measure"] for line in summary["verdict"]["failed"]]
    assert "error" not in summary
    assert all(any(folder.iterdir()) for folder in (place.home / "dpo" / "runs").iterdir())
    record_property("cases", len(tried) + 1)
