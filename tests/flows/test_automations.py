"""The automations that ship are ones that Prefect takes."""

from uuid import uuid4

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore
from workplace import ROOT

FILES = sorted((ROOT / "deploy" / "automations").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_automation_is_one_that_prefect_takes(file):
    text = file.read_text(encoding="utf-8").replace("BLOCK_ID", str(uuid4()))
    assert AutomationCore.model_validate(yaml.safe_load(text)).description


def test_a_message_is_sent_for_every_way_in_which_a_run_fails():
    (file,) = (f for f in FILES if f.stem == "failed-runs")
    expected = yaml.safe_load(file.read_text(encoding="utf-8"))["trigger"]["expect"]
    assert {name.split(".")[-1] for name in expected} == {
        "Failed", "GateFailed", "TimedOut", "Crashed"
    }  # fmt: skip
