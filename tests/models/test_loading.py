"""Models and tokenizers load whole, where and as precisely as asked, or say why not."""

import ctypes
import os
import subprocess
import sys
import weakref

import pytest
from tiny import edit_json, make_tiny_model

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.loading import (
    kept_model,
    let_go_model,
    load_model,
    load_tokenizer,
    pick_precision,
)
from dpo_pipeline.models.references import resolve_model


@pytest.mark.parametrize("arch", ["qwen2", "llama", "gpt2"])
def test_a_model_loads_in_eval_mode_with_its_weights(tmp_path, arch):
    import torch
    from safetensors.torch import load_file

    ref = resolve_model(str(make_tiny_model(tmp_path / arch, arch)))
    model = load_model(ref, "cpu", "float32")
    saved = load_file(ref.path / "model.safetensors")
    assert not model.training
    assert model.dtype is torch.float32
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in saved.items())
    assert load_model(ref, "cpu", "bfloat16").dtype is torch.bfloat16


def test_a_missing_tensor_is_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    lost = weights.pop("model.layers.1.mlp.up_proj.weight")
    assert lost.numel() > 0
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing.*up_proj"):
        load_model(resolve_model(str(copy)), "cpu")


def test_weights_that_are_no_numbers_are_named(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors in .* hold NaN .*up_proj"):
        load_model(resolve_model(str(copy)), "cpu")


def test_a_tensor_of_another_shape_is_refused(copy):
    edit_json(copy / "config.json", intermediate_size=96)
    with pytest.raises(ModelError, match="does not load"):
        load_model(resolve_model(str(copy)), "cpu")


def test_weights_in_memory_do_not_change_with_their_file(copy):
    import torch

    model = load_model(resolve_model(str(copy)), "cpu", "float32")
    before = [parameter.clone() for parameter in model.parameters()]
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(file.seek(0, os.SEEK_END) // 2)
        file.write(b"\x55" * 10_000)
    assert all(map(torch.equal, before, model.parameters()))


def test_weights_that_were_swapped_since_are_refused(copy, tmp_path):
    ref = resolve_model(str(copy))
    other = make_tiny_model(tmp_path / "other", seed=1) / "model.safetensors"
    other.replace(copy / "model.safetensors")
    with pytest.raises(ModelError, match="changed after they were looked at"):
        load_model(ref, "cpu")
    assert load_model(resolve_model(str(copy)), "cpu")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hidden_size": "x"}, "StrictDataclassFieldValidationError"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"model_type": ["qwen2"]}, "TypeError"),
        ({"quantization_config": 5}, "AttributeError"),
    ],
)
def test_a_config_that_says_nonsense_is_named(copy, change, why):
    edit_json(copy / "config.json", **change)
    with pytest.raises(ModelError, match=f"does not load.*{why}"):
        load_model(resolve_model(str(copy)), "cpu", "float32")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer_config.json", {"tokenizer_class": 5}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": 1}}),
        ("tokenizer_config.json", {"eos_token": "\ud800"}),
        ("tokenizer.json", {"model": {"type": "X"}}),
        ("config.json", {"hidden_size": "x"}),
    ],
)
def test_a_tokenizer_that_says_nonsense_is_named(copy, name, change):
    edit_json(copy / name, **change)
    with pytest.raises(ModelError, match="its tokenizer, or its config, does not load"):
        load_tokenizer(resolve_model(str(copy)))


@pytest.mark.parametrize("template", [5, [{"name": "tools", "template": "x"}], [5]])
def test_a_chat_template_that_is_none_is_named(copy, template):
    (copy / "chat_template.jinja").unlink()
    edit_json(copy / "tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelError, match=r"does not load|is no text"):
        load_tokenizer(resolve_model(str(copy)))


def test_truncated_weights_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not load"):
        load_model(resolve_model(str(copy)), "cpu")


def test_remote_code_is_refused_without_asking(copy):
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nclass Evil: ...\n")
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    edit_json(copy / "config.json", model_type="evil", auto_map=auto)
    with pytest.raises(ModelError, match="does not load"):
        load_model(resolve_model(str(copy)), "cpu")
    assert not (copy / "ran").exists()


def test_a_tokenizer_that_is_not_there_or_loses_words_is_refused(copy):
    # transformers makes an empty tokenizer for a folder without one, and says nothing.
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(resolve_model(str(copy)))
    for path in [*copy.glob("token*"), *copy.glob("*.jinja")]:
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(resolve_model(str(copy)))


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


def test_a_kept_model_is_loaded_once_and_let_go(copy):
    ref = resolve_model(str(copy))
    _, model = kept_model(ref, "cpu", "float32")
    assert kept_model(ref, "cpu", "float32")[1] is model
    gone = weakref.ref(model)
    del model
    let_go_model()
    assert gone() is None


KEPT = """
import resource
from pathlib import Path

from dpo_pipeline.models.loading import kept_model, let_go_model
from dpo_pipeline.models.references import resolve_model

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20

kept_model(resolve_model({path!r}), "cpu", "float32")
pieces = [bytes(2000) for _ in range(100_000)]
last = bytes(2000)  # above them on the heap, which cannot shrink while it is there
full = resident()
del pieces
let_go_model()
print(full - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps it")
def test_what_was_freed_goes_back_with_the_model(copy):
    code = KEPT.format(path=str(copy))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100  # MiB
