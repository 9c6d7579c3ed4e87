"""What reads of the Hub use: a branch becomes a commit, errors say what to do."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants, hf_hub_download

from dpo_pipeline.errors import DataError, ModelError
from dpo_pipeline.hub.client import ask, resolve_revision
from dpo_pipeline.models.references import resolve_model

SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_new_process_reads_models_and_datasets_by_id(hub, model, rows, tmp_path):
    hub.add_model(SMOL, model)
    first = hub.add_dataset("tester/rows", rows, private=True)
    later = shutil.copytree(rows, tmp_path / "later")
    pq.write_table(pa.table({"text": ["moved"]}), later / "train.parquet")
    hub.add_dataset("tester/rows", later)
    hub.add_dataset("google/gated", rows, gated=True)
    for call, what in (("info", 503), ("resolve", 429), ("tree", "cut-in"), ("storage", "cut-in")):
        hub.faults.add(call, what)
    told = hub.run(
        f"""
import json
from transformers import AutoConfig, AutoTokenizer
from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.sources import read_source, resolve_source
from dpo_pipeline.prompts.settings import PromptsConfig
source = resolve_source(PromptsConfig(source="tester/rows", revision={first!r}))
texts = [row["text"] for _, row in read_source(source, "train")]
head = resolve_source(PromptsConfig(source="tester/rows")).revision
try:
    list(read_source(resolve_source(PromptsConfig(source="google/gated")), "train"))
except DataError as error:
    gated = str(error)
text = "I'm Qwen 你好"
tokens = AutoTokenizer.from_pretrained({SMOL!r})
print(json.dumps([AutoConfig.from_pretrained({SMOL!r}).model_type,
                  tokens.decode(tokens(text)["input_ids"]) == text,
                  texts, head, gated]))
""",
        token=hub.READ,
    )
    family, whole, texts, head, gated = json.loads(told.splitlines()[-1])
    assert (family, whole, texts) == ("llama", True, ["a", "你好"])
    assert head == hub.dataset("tester/rows").head != first
    assert len(hub.faults.fired) == 4
    assert "is gated: ask for access at" in gated


def test_a_revision_is_resolved_once_and_read_ever_after(hub, model, tmp_path):
    first = hub.add_model(SMOL, model)
    ref = resolve_model(SMOL)
    other = shutil.copytree(model, tmp_path / "other")
    (other / "generation_config.json").write_text('{"top_k": 3}')
    assert hub.add_model(SMOL, other) != first
    assert ref.revision == resolve_revision(SMOL, "model", first) == first
    assert resolve_model(SMOL, first) == ref
    assert resolve_revision(SMOL, "model", "main") != first


def test_a_tag_is_resolved_to_its_commit(hub, model):
    commit = hub.add_model("tester/m", model)
    HfApi(token=hub.WRITE).create_tag("tester/m", tag="v1")
    assert resolve_revision("tester/m", "model", "v1") == commit


def test_offline_what_is_in_the_cache_is_enough(hub, model, monkeypatch):
    hub.add_model(SMOL, model)
    online = resolve_model(SMOL)
    calls = len(hub.calls)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_model(SMOL) == online
    with pytest.raises(ModelError, match=r"not whole in the local cache.* unset HF_HUB_OFFLINE"):
        resolve_model("tester/never-seen")
    with pytest.raises(DataError, match="unset HF_HUB_OFFLINE"):
        resolve_revision("tester/never-seen", "dataset", "main")
    assert len(hub.calls) == calls


@pytest.mark.slow
def test_offline_a_dataset_comes_from_the_cache(hub, rows, tmp_path):
    hub.add_dataset("tester/rows", rows)
    read = """
from dpo_pipeline.prompts.sources import read_source, resolve_source
from dpo_pipeline.prompts.settings import PromptsConfig
source = resolve_source(PromptsConfig(source="tester/rows"))
print(source.revision, [row["text"] for _, row in read_source(source, "train")])
"""
    online = hub.run(read, home=tmp_path / "home")
    calls = len(hub.calls)
    assert hub.run(read, home=tmp_path / "home", HF_HUB_OFFLINE="1") == online
    assert len(hub.calls) == calls


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
