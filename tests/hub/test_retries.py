"""Patience with the Hub, where it may help."""

import pytest
from huggingface_hub.utils import close_session

from dpo_pipeline.errors import ModelError
from dpo_pipeline.hub import client, retries
from dpo_pipeline.hub.client import resolve_revision
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.models.references import resolve_model

CUTS = ("cut-before", "cut-in", "cut-after")


@pytest.fixture
def waits(hub, monkeypatch):
    """Record what would have been slept (seconds)."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.mark.parametrize(
    "what", [408, 429, 500, 502, 503, 504, "cut-before", "cut-in", "cut-after"]
)
def test_what_may_pass_is_tried_again(hub, model, waits, what):
    commit = hub.add_model("tester/m", model)
    hub.faults.add("info", what, times=2)
    assert resolve_revision("tester/m", "model") == commit
    assert len(waits) == 2


@pytest.mark.parametrize("what", [400, 401, 403, 404, 451, 501])
def test_what_will_not_pass_is_asked_once(hub, model, waits, what):
    hub.add_model("tester/m", model)
    hub.faults.add("info", what, times=9)
    with pytest.raises(ModelError):
        resolve_revision("tester/m", "model")
    assert [call for call, _, _ in hub.calls] == ["info"]
    assert not waits


def test_the_hub_says_how_long_to_wait_within_reason(hub, model, waits):
    hub.add_model("tester/m", model)
    hub.faults.add("info", 429, retry_after=7)
    hub.faults.add("info", 429, retry_after=100_000)
    resolve_revision("tester/m", "model")
    assert waits == [7, retries.LONGEST_WAIT]


def test_patience_ends_with_the_hubs_own_words(hub, model, waits):
    hub.add_model("tester/m", model)
    hub.faults.add("info", 429, times=99, retry_after=30)
    with pytest.raises(ModelError, match=r"limits the rate: run again in 30 s"):
        resolve_revision("tester/m", "model")
    assert len(waits) == retries.ATTEMPTS - 1
    hub.faults.clear()
    hub.faults.add("info", 503, times=99)
    with pytest.raises(ModelError, match="run again later"):
        resolve_revision("tester/m", "model")


@pytest.mark.parametrize("call", ["info", "tree"])
def test_a_silent_hub_is_given_up(hub, model, monkeypatch, call):
    commit = hub.add_model("tester/m", model)
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    close_session()
    hub.faults.add(call, "slow")
    assert resolve_model("tester/m").revision == commit
    close_session()


@pytest.mark.parametrize("what", [429, 503, *CUTS])
@pytest.mark.parametrize("call", ["resolve", "storage"])
def test_downloads_survive_what_passes(hub, model, call, what):
    hub.add_model("tester/m", model)
    hub.faults.add(call, what, times=2)
    ref = resolve_model("tester/m")
    assert (ref.path / "model.safetensors").read_bytes() == (
        model / "model.safetensors"
    ).read_bytes()


def test_patience_is_for_calls_that_return():
    assert patiently(lambda: 3) == 3
