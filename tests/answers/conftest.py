"""Tiny models to ask."""

import pytest
from tiny import make_tiny_model

from dpo_pipeline.models.references import resolve_model


@pytest.fixture(scope="module", params=["qwen2", "llama", "gpt2"])
def any_ref(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    return resolve_model(str(make_tiny_model(folder, request.param, seed=1)))


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen2"
    return resolve_model(str(make_tiny_model(folder, "qwen2", seed=1)))
