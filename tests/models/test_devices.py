"""Where a model runs, and in which precision."""

import pytest
from tiny import edit_json

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.devices import pick_precision
from dpo_pipeline.models.loading import load_model
from dpo_pipeline.models.references import resolve_model


def test_a_gpu_that_is_not_there_is_refused(tiny, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="sees no GPU"):
        load_model(resolve_model(str(tiny)), "cuda")


def test_automatic_precision_depends_on_hardware_and_width(copy, monkeypatch):
    ref = resolve_model(str(copy))
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert pick_precision(ref, "cpu", "auto") == "float32"  # 32 wide
    edit_json(copy / "config.json", hidden_size=576)
    assert pick_precision(ref, "cpu", "auto") == "bfloat16"
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {})
    assert pick_precision(ref, "cpu", "auto") == "float32"
    assert pick_precision(ref, "cpu", "bfloat16") == "bfloat16"
