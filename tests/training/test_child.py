"""What the training process writes."""

import json

from float64 import in_float64
from tiny import edit_json, make_tiny_model
from trained import history_of, train_here

from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.training.settings import LoraConfig


@in_float64()
def test_an_adapter_loads_with_its_base(dataset, tmp_path):
    ref = describe_model(make_tiny_model(tmp_path / "model"), "tiny")
    lora = LoraConfig(rank=4, merge=False)
    kept = describe_model(
        train_here(ref, dataset, tmp_path / "a", method="lora", lora=lora) / "model", "kept"
    )
    merged = (
        train_here(ref, dataset, tmp_path / "b", method="lora", lora=LoraConfig(rank=4)) / "model"
    )
    assert not (kept.path / "model.safetensors").exists()
    ids = load_tokenizer(kept)("Who are you?", return_tensors="pt")["input_ids"]
    assert ids.shape[1] > 3
    logits = [
        load_model(r, "cpu", "float32")(ids).logits
        for r in (kept, describe_model(merged, "merged"), ref)
    ]
    assert logits[0].allclose(logits[1], atol=1e-9)
    assert not logits[0].allclose(logits[2], atol=1e-4)


def test_a_bfloat16_model_is_trained_in_float32_and_stays_bfloat16(ref, dataset, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    start = describe_model(folder, "bf16")
    out = train_here(start, dataset, tmp_path / "run", learning_rate=1e-5, sft_weight=0.0)
    after = AutoModelForCausalLM.from_pretrained(out / "model")
    assert {parameter.dtype for parameter in after.parameters()} == {torch.bfloat16}
    # Steps this small vanish in bfloat16 weights, and so would the margin.
    assert min(row["margin"] for row in history_of(out)[1:]) > 1e-3


def test_code_of_the_reference_is_no_part_of_the_policy(dataset, tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    for name in ("config.json", "tokenizer_config.json"):
        edit_json(folder / name, auto_map={"AutoModelForCausalLM": "modeling.Model"})
    ref = describe_model(folder, "coded")
    out = train_here(ref, dataset, tmp_path / "run", epochs=None, max_steps=1)
    settings = [json.loads(file.read_text()) for file in (out / "model").glob("*config.json")]
    assert settings
    assert not any("auto_map" in values for values in settings)
    assert not list((out / "model").rglob("*.py"))
