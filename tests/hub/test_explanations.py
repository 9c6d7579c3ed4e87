"""Errors of the Hub say what to do."""

import pytest
from huggingface_hub import constants, hf_hub_download

from dpo_pipeline.errors import DataError, ModelError
from dpo_pipeline.hub.client import ask, resolve_revision
from dpo_pipeline.models.references import resolve_model


def test_a_missing_or_private_repository(hub, model):
    hub.add_model("somebody/hidden", model, private=True)
    for name in ("tester/nothing", "somebody/hidden"):
        with pytest.raises(
            ModelError, match=rf"'{name}' .*does not exist or is private.* HF_TOKEN"
        ):
            resolve_revision(name, "model")
    with pytest.raises(DataError, match="dataset 'tester/nothing'"):
        resolve_revision("tester/nothing", "dataset")


def test_a_missing_revision(hub, model):
    hub.add_model("tester/m", model)
    for revision in ("v9", "0" * 40):
        with pytest.raises(ModelError, match="has no such revision"):
            resolve_model("tester/m", revision)


def test_a_gated_repository(hub, model, monkeypatch):
    hub.add_model("google/gated", model, gated=True)
    for token in ("", hub.READ):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(ModelError, match=r"is gated: ask for access at http.*/google/gated"):
            resolve_model("google/gated")


def test_a_token_that_is_not_valid(hub, model, monkeypatch):
    hub.add_model("tester/m", model)
    monkeypatch.setenv("HF_TOKEN", "hf_expired123456789")
    with pytest.raises(ModelError, match="refuses the token") as error:
        resolve_revision("tester/m", "model")
    assert "hf_expired" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_renamed_repository_still_answers_and_says_so(hub, model, caplog):
    hub.add_model("gpt2", model)
    hub.rename("models", "gpt2", "openai-community/gpt2")
    ref = resolve_model("gpt2")
    assert ref.revision == hub.model("openai-community/gpt2").head
    assert "gpt2 was renamed: configure openai-community/gpt2" in caplog.text


def test_an_unreachable_hub(hub, model, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"cannot be reached .* check the network, the proxy"):
        resolve_revision("tester/m", "model")


def test_a_file_that_is_not_there(hub, model):
    hub.add_model("tester/m", model)
    with pytest.raises(ModelError, match=r"lacks /tester/m/resolve/main/nothing\.txt"):
        ask(lambda: hf_hub_download("tester/m", "nothing.txt"), "tester/m", "model")


def test_other_errors_pass_through(hub):
    with pytest.raises(ZeroDivisionError):
        ask(lambda: 1 // 0, "tester/m", "model")
