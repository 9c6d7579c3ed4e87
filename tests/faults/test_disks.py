"""A disk that is full, or that may not be written, at every stage of a run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from runs_in_turn import in_turn
from workplace import Workplace

pytestmark = pytest.mark.slow

SMALL = {
    "prompts.limit": 60,
    "generation.max_new_tokens": 24,
    "pairs.min_yield": 0.01,
    "pairs.ways": ["replaced", "transferred", "instructed"],
    "train.max_steps": 4,
    "train.save_steps": 2,
    "train.goal": None,
    "train.batch_size": 4,
    "train.retention_weight": 0.1,
    "train.retention_rows": 2,
    "evaluation.max_prompts": 6,
    "evaluation.matrix_prompts": 0,
    "evaluation.noise_prompts": 4,
}
STAGES = [
    *("model", "census", "download", "generate", "instruct", "rewrite", "save", "retain"),
    *("train", "evaluate"),
]
# Stage, and what else of the store it writes.
SHARED = [
    *(("census", "ledger"), ("train", "references")),
    *(("train", "work"), ("save", "tmp")),
]
FULL = "free some space or set DPO_PIPELINE_HOME to another disk, and run again"
BARRED = "give yourself the right to read and write there, or set DPO_PIPELINE_HOME to a folder of"
ROOM = [64, 1 << 10, 1 << 12, 1 << 14, 1 << 17, 1 << 21]  # bytes


def digests(place: Workplace) -> dict[str, str]:
    files = (place.home / "dpo" / "objects").glob("*/*/manifest.json")
    return {path.parent.name: json.loads(path.read_text())["body"]["digest"] for path in files}


def summaries(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads((Path(folder) / "summary.json").read_text()) for folder in run["folders"]]


def check_error(place: Workplace, run: dict[str, Any], remedy: str) -> None:
    said = rf"StoreError: cannot write .*{place.home}/dpo/.*; {re.escape(remedy)}"
    assert re.match(said, run["raised"]), run
    assert run["state"] == "Failed"


@pytest.fixture(scope="module")
def untroubled(tmp_path_factory, server) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("home"))
    (run,) = in_turn(place, server, [{"settings": SMALL}])
    (summary,) = summaries(run)
    assert list(summary["stages"]) == STAGES
    return place


def test_every_stage_tells_of_a_full_disk_and_leaves_no_empty_folder(
    untroubled, server, record_property
):
    before = digests(untroubled)
    asked = [{"without": [f"objects/{stage}"], "room": 64} for stage in STAGES]
    for run in in_turn(untroubled, server, [{"settings": SMALL, **one} for one in asked]):
        check_error(untroubled, run, FULL)
        assert run["folders"] == []  # there is no room for a summary either
    assert digests(untroubled) == before
    record_property("cases", len(asked))


def test_every_stage_tells_where_it_may_not_write(untroubled, server, record_property):
    before = digests(untroubled)
    where = [*((stage, "objects") for stage in STAGES), *((*both, both[1]) for both in SHARED)]
    asked = [
        {"settings": SMALL, "barred": folder, "without": [f"objects/{stage}", *others]}
        for stage, folder, *others in where
    ]
    for (stage, folder, *_), run in zip(where, in_turn(untroubled, server, asked), strict=True):
        check_error(untroubled, run, BARRED)
        assert f"{untroubled.home}/dpo/{folder}/" in run["raised"]
        (summary,) = summaries(run)
        assert summary["error"]["stage"] == stage
        assert "Permission denied" in summary["error"]["message"]
    assert digests(untroubled) == before
    record_property("cases", len(asked))


def test_a_run_goes_on_as_the_disk_gets_room(untroubled, server, tmp_path, record_property):
    place = Workplace(tmp_path)
    asked = [{"settings": SMALL, "room": room} for room in ROOM]
    *short, whole = in_turn(place, server, [*asked, {"settings": SMALL}])
    for run in short:
        check_error(place, run, FULL)
    assert whole["state"] == "GateFailed"  # so short a training does not pass
    assert digests(place) == digests(untroubled)
    record_property("cases", len(short))
