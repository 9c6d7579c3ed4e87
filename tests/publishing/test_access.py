"""Tokens: where they come from, and what they must be able to do."""

import traceback

import httpx2
import pytest
from hub_server import UPLOAD_CALLS, Hub
from huggingface_hub import HfApi, constants, get_token

from dpo_pipeline.errors import PublishError
from dpo_pipeline.publishing.access import check_access, check_token, telling
from dpo_pipeline.publishing.settings import PublishConfig


@pytest.mark.parametrize(
    ("token", "says"),
    [(Hub.READ, "may only read"), (Hub.OTHER, "permissions"), ("hf_unknownTOKEN123", "token")],
)
def test_a_token_that_may_not_write_is_refused_before_anything_goes(send, hub, token, says):
    with pytest.raises(PublishError, match=says) as error:
        send(token=token)
    assert not hub.repos
    assert not {call for call, _, _ in hub.calls} & set(UPLOAD_CALLS)
    assert token not in str(error.value)
    assert error.value.__cause__ is None


def test_a_fine_grained_token_must_cover_every_repository(hub):
    api = HfApi(token=Hub.FINE)
    hub.scopes = [("user", "Tester"), ("dataset", "acme/pairs"), ("org", "readers")]
    assert check_token(api, {"model": "deep", "dataset": "Acme/Pairs"}) == "tester"
    for kind, repo in (("model", "acme/pairs"), ("dataset", "readers2/x"), ("model", "users/x")):
        with pytest.raises(PublishError, match=f"may not write to the {kind} {repo}"):
            check_token(api, {"dataset": "acme/pairs"} | {kind: repo})


def test_a_fine_grained_token_publishes_what_it_covers(send, hub):
    hub.scopes = [("user", "tester")]
    assert send(token=Hub.FINE)["model"]["committed"]


def test_a_block_that_holds_no_token_is_named(monkeypatch):
    from prefect.blocks.system import Secret
    from prefect.testing.utilities import prefect_test_harness

    from tasks.publishing import _read_token

    with prefect_test_harness(server_startup_timeout=120):
        Secret(value="hf_inABLOCK12345678\n").save("good")
        Secret(value={"token": "hf_inABLOCK12345678"}).save("a-map")
        assert _read_token(PublishConfig(token_block="good")) == "hf_inABLOCK12345678"
        for name, says in (
            ("a-map", "'a-map' holds no text"),
            ("absent", "no Secret block 'absent'"),
        ):
            with pytest.raises(PublishError, match=says) as error:
                _read_token(PublishConfig(token_block=name))
            assert "inABLOCK" not in "".join(traceback.format_exception(error.value))


def test_tokens_come_from_the_environment_or_the_login(hub, monkeypatch, tmp_path):
    assert get_token() is None
    with pytest.raises(PublishError, match="no Hub token: set HF_TOKEN"):
        check_access(PublishConfig(), None)
    (tmp_path / "token").write_text("hf_storedLOGIN12345")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert get_token() == "hf_storedLOGIN12345"
    monkeypatch.setenv("HF_TOKEN", "hf_fromENVIRONMENT1")
    assert get_token() == "hf_fromENVIRONMENT1"


def test_an_error_says_once_what_is_done_and_that_publishing_again_helps():
    with (
        pytest.raises(PublishError) as error,
        telling(token=Hub.WRITE),
        telling("me/deep", "model", landed=["dataset me/pairs is at commit 1"]),
    ):
        raise httpx2.ConnectError(f"no route for {Hub.WRITE}")
    said = str(error.value)
    assert said.startswith("model 'me/deep' at ")
    assert said.count("publishing again completes what is missing") == 1
    assert said.endswith("; done before: dataset me/pairs is at commit 1")
