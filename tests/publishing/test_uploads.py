"""Which files go, how an adapter goes, and what must not go: tokens, keys, links."""

import json
import pickle
import shutil
import traceback

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from published import LINEAGE, card_of, contents, copy_of, said, scorecard

from dpo_pipeline.errors import ModelError, PublishError


def test_an_adapter_names_its_base_on_the_hub_or_stays_here(send, hub, policy, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(policy / "model.safetensors", adapter / "adapter_model.safetensors")
    here = shutil.copytree(policy, tmp_path / "base")
    named = json.dumps({"base_model_name_or_path": str(here)})
    (adapter / "adapter_config.json").write_text(named)
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
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    base = hub.add_model("Qwen/Tiny", policy)
    lora = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(0)  # with other weights it may say nothing
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


def test_the_token_is_in_nothing_that_is_written_or_sent(send, hub, caplog):
    caplog.set_level(0)
    out = send()["out"]
    hub.faults.add("commit", 403, times=9)
    with pytest.raises(PublishError) as error:
        send("r2", scorecard={**scorecard(), "examples": []})
    written = [p.read_bytes() for p in (*out.rglob("*"), *hub.root.rglob("*")) if p.is_file()]
    assert len(written) > 15
    assert not any(Hub.WRITE.encode() in content for content in written)
    assert Hub.WRITE not in caplog.text + "".join(traceback.format_exception(error.value))
    assert Hub.WRITE.encode() not in pickle.dumps(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".env", r"\.env may hold a secret"),
        ("id_rsa", "may hold a secret"),
        ("merges.txt", "merges.txt holds what looks like a token"),
    ],
)
def test_secrets_stop_everything(send, hub, policy, tmp_path, name, says):
    bad = copy_of(policy, tmp_path / "bad", **{name: b"x = hf_abcdefgh12345678"})
    with pytest.raises(PublishError, match=says):
        send(model=bad)
    assert not hub.repos


def test_a_secret_in_an_answer_stops_both_repositories(send, hub):
    card = scorecard()
    card["examples"][0]["after"] = "I'm Deep Qwen.\nhf_abcdefgh12345678"
    with pytest.raises(PublishError, match="the cards tell holds what looks like a token"):
        send(scorecard=card)
    assert not hub.repos


@pytest.mark.parametrize("column", ["prompt", "language", "tags"])
def test_a_secret_in_a_row_stops_everything(send, hub, pairs, tmp_path, column):
    bad = copy_of(pairs, tmp_path / "bad")
    rows = [row | {"tags": ["a"]} for row in pq.read_table(bad / "held_out.parquet").to_pylist()]
    secret = "is\nhf_abcdefgh12345678"
    rows[1][column] = {"prompt": said("user", secret), "language": secret, "tags": [secret]}[column]
    pq.write_table(pa.Table.from_pylist(rows), bad / "held_out.parquet")
    with pytest.raises(PublishError, match=rf"data/test.*, column {column}, holds what looks like"):
        send(dataset=bad)
    assert not hub.repos


def test_links_stop_everything(send, hub, policy, tmp_path):
    bad = copy_of(policy, tmp_path / "bad")
    (bad / "vocab.txt").symlink_to("/etc/hostname")
    with pytest.raises(ModelError, match=r"vocab\.txt links to /etc/hostname, outside"):
        send(model=bad)
    assert not hub.repos
