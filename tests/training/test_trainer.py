"""The trainer that fits: engines, adapters, precision, trackers."""

import json

import pytest
from float64 import in_float64
from safetensors.numpy import load_file
from tiny import make_tiny_model
from trained import (
    largest_difference,
    make_job,
    stats_of,
    train_here,
    weights,
)

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.training.settings import LoraConfig, TrainConfig
from dpo_pipeline.training.trainer import trainer_arguments


@pytest.mark.parametrize("sft_weight", [0.0, 1.0])
@in_float64()
def test_both_engines_and_any_row_budget_reach_the_same_weights(dataset, tmp_path, sft_weight):
    ref = describe_model(make_tiny_model(tmp_path / "model"), "tiny")
    packed = train_here(ref, dataset, tmp_path / "a", sft_weight=sft_weight)
    small = train_here(ref, dataset, tmp_path / "b", row_tokens=150, sft_weight=sft_weight)
    plain = train_here(ref, dataset, tmp_path / "c", engine="trl", sft_weight=sft_weight)
    records = [stats_of(out) for out in (packed, small, plain)]
    assert [r.engine for r in records] == ["shared-prefix", "shared-prefix", "trl"]
    assert records[0].micro_batch == 4 > records[1].micro_batch
    assert largest_difference(packed, plain) < 1e-9
    assert largest_difference(packed, small) < 1e-9


def test_a_model_that_cannot_share_prefixes_is_trained_by_trl(dataset, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = make_tiny_model(tmp_path / "model", "llama")
    settings = json.loads((folder / "config.json").read_text())
    sliding = AutoConfig.for_model(**settings | {"model_type": "mistral", "sliding_window": 16})
    AutoModelForCausalLM.from_config(sliding).save_pretrained(folder)
    ref = describe_model(folder, "sliding")
    out = train_here(ref, dataset, tmp_path / "run")
    assert stats_of(out).engine == "trl"
    with pytest.raises(TrainingError, match="sliding window of 16"):
        train_here(ref, dataset, tmp_path / "strict", engine="shared-prefix")


@pytest.mark.parametrize("width", [64, 576])
@pytest.mark.parametrize("fast", [True, False])
def test_precision_follows_width_and_hardware_unless_it_is_set(
    ref, dataset, tmp_path, monkeypatch, width, fast
):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": fast})
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": width}))
    wide = ref.model_copy(update={"path": tmp_path})

    def chosen(precision: str) -> bool:
        config = TrainConfig(precision=precision).resolve(ref.name)
        return trainer_arguments(make_job(wide, dataset, tmp_path, config), 1).bf16

    assert chosen("auto") == (fast and width == 576)
    assert not chosen("fp32")
    assert chosen("bf16")


def test_an_unknown_tracker_is_refused(ref, dataset, tmp_path):
    with pytest.raises(TrainingError, match="pip install no_such_tracker"):
        train_here(ref, dataset, tmp_path, report_to=("no_such_tracker",))


def test_quantized_adapters_need_a_gpu_and_bitsandbytes(ref, dataset, tmp_path):
    lora = LoraConfig(quantize=True, merge=False)
    with pytest.raises(TrainingError, match="bitsandbytes"):
        train_here(ref, dataset, tmp_path, method="lora", lora=lora)


@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_merged_adapters_change_linear_layers_only(ref, dataset, tmp_path, engine):
    out = train_here(ref, dataset, tmp_path, method="lora", lora=LoraConfig(rank=4), engine=engine)
    before = load_file(ref.path / "model.safetensors")
    changed = {k for k, v in weights(out).items() if abs(v - before[k]).max() > 0}
    assert changed
    assert all(name.endswith("proj.weight") for name in changed)
    assert changed == {name for name in before if name.endswith("proj.weight")}
