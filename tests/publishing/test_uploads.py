"""Which files go, and how an adapter goes."""

import json
import shutil

import pytest
from hub_server import Hub
from published import LINEAGE, card_of, contents, copy_of, said

from dpo_pipeline.errors import PublishError


def test_an_adapter_names_its_base_on_the_hub_or_stays_here(send, hub, policy, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(policy / "model.safetensors", adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/base"}')
    with pytest.raises(PublishError, match=r"train\.lora\.merge"):
        send(model=adapter)
    assert not hub.repos, "nothing goes when one of the two cannot"
    base = hub.add_model("Qwen/Tiny", policy)
    send(model=adapter, lineage={"model": {"name": "Qwen/Tiny", "revision": base}})
    settings = json.loads(contents(hub, hub.model("tester/deep"))["adapter_config.json"])
    assert settings == {"base_model_name_or_path": "Qwen/Tiny", "revision": base}
    assert card_of(hub, hub.model("tester/deep")).data.library_name == "peft"


def test_an_adapter_runs_as_its_card_says_also_after_its_base_has_moved(
    send, hub, policy, tmp_path
):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    base = hub.add_model("Qwen/Tiny", policy)
    lora = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(policy), lora)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.save_pretrained(tmp_path / "adapter")
    measured = pipeline("text-generation", model=model, tokenizer=tokenizer)(
        said("user", "Who are you?"), max_new_tokens=128, do_sample=False
    )[0]["generated_text"][-1]["content"]
    send(
        model=tmp_path / "adapter",
        lineage=LINEAGE | {"model": {"name": "Qwen/Tiny", "revision": base}},
    )

    weights = load_file(policy / "model.safetensors")
    moved = copy_of(policy, tmp_path / "moved")
    zeros = {n: t.mul(0) for n, t in weights.items()}
    save_file(zeros, moved / "model.safetensors", {"format": "pt"})
    assert hub.add_model("Qwen/Tiny", moved) != base
    snippet = card_of(hub, hub.model("tester/deep")).text.partition("```python\n")[2]
    assert hub.run(snippet.partition("```")[0], token=Hub.READ).strip() == measured.strip() != ""


def test_only_known_files_go_and_no_pickle(send, hub, policy, tmp_path):
    stray = {"training_args.bin": b"pickle", "notes.txt": b"mine", "run.py": b"import os"}
    done = send(model=copy_of(policy, tmp_path / "stray", **stray))
    assert done["model"]["left_out"] == ["notes.txt", "run.py", "training_args.bin"]
    assert not stray.keys() & hub.model("tester/deep").tree().keys()
