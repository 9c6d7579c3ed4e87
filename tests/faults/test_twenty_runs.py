"""Twenty runs at once over one store."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from workplace import ROOT

pytestmark = pytest.mark.slow

RUNS = 20


def test_twenty_runs_at_once_build_each_artifact_once_and_mix_nothing(tmp_path, record_property):
    store, built = tmp_path / "store", tmp_path / "built"
    command = [sys.executable, Path(__file__).parent / "chain.py", store, built]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    runs = [subprocess.Popen([*map(str, command)], env=environment) for _ in range(RUNS)]
    assert [run.wait() for run in runs] == [0] * RUNS
    done = ("answer a", "answer b", "answers", "step 1", "step 2", "train", "score")
    assert Counter(built.read_text().split("\n")[:-1]) == Counter(done)
    manifests = list((store / "objects").glob("*/*/manifest.json"))
    assert {json.loads(m.read_text())["body"]["stage"] for m in manifests} == {
        "generate", "train", "evaluate",
    }  # fmt: skip
    assert len(manifests) == 3
    assert not list((store / "tmp").iterdir())
    assert not list((store / "work").iterdir())
    record_property("cases", RUNS)
