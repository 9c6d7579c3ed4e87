"""The automations that ship are ones that Prefect takes."""

from uuid import uuid4

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore
from workplace import ROOT

from tasks.run import GATE_FAILED

FILES = sorted((ROOT / "deploy" / "automations").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_automation_is_one_that_prefect_takes(file):
    text = file.read_text(encoding="utf-8").replace("BLOCK_ID", str(uuid4()))
    assert AutomationCore.model_validate(yaml.safe_load(text)).description


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_knows_every_way_in_which_a_run_fails(file):
    expected = yaml.safe_load(file.read_text(encoding="utf-8"))["trigger"]["expect"]
    failures = {
        f"prefect.flow-run.{name}" for name in ("Failed", GATE_FAILED, "TimedOut", "Crashed")
    }
    assert failures <= set(expected)
