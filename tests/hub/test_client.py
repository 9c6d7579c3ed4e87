"""Reading from the Hub: commits, errors that say what to do, patience; and the Hub of the tests."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import close_session
from tiny import make_tiny_model

from dpo_pipeline.errors import DataError, ModelError
from dpo_pipeline.hub import client, retries
from dpo_pipeline.hub.client import ask, resolve_revision
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.models.references import resolve_model

CUTS = ("cut-before", "cut-in", "cut-after")
SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "m", "llama")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as hub:
        hub.connect(monkeypatch)
        yield hub


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a", "你好"]}), folder / "train.parquet")
    return folder


# -- what reads use


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
from dpo_pipeline.config import PromptsConfig
from dpo_pipeline.errors import DataError
from dpo_pipeline.sources import read_rows, resolve_source
source = resolve_source(PromptsConfig(source="tester/rows", revision={first!r}))
texts = [row["text"] for _, row in read_rows(source, "train")]
head = resolve_source(PromptsConfig(source="tester/rows")).revision
try:
    list(read_rows(resolve_source(PromptsConfig(source="google/gated")), "train"))
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
from dpo_pipeline.config import PromptsConfig
from dpo_pipeline.sources import read_rows, resolve_source
source = resolve_source(PromptsConfig(source="tester/rows"))
print(source.revision, [row["text"] for _, row in read_rows(source, "train")])
"""
    online = hub.run(read, home=tmp_path / "home")
    calls = len(hub.calls)
    assert hub.run(read, home=tmp_path / "home", HF_HUB_OFFLINE="1") == online
    assert len(hub.calls) == calls


# -- errors that say what to do


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


# -- patience


@pytest.fixture
def waits(hub, monkeypatch):
    """Record what would have been slept (seconds)."""
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


@pytest.mark.parametrize(
    "what", [408, 429, 500, 502, 503, 504, "cut-before", "cut-in", "cut-after"]
)
def test_what_may_pass_is_tried_again(hub, model, waits, what):
    commit = hub.add_model("tester/m", model)
    hub.faults.add("info", what, times=2)
    assert resolve_revision("tester/m", "model") == commit
    assert len(waits) == 2


@pytest.mark.parametrize("what", [400, 401, 403, 404, 451, 501])
def test_what_will_not_pass_is_asked_once(hub, model, waits, what):
    hub.add_model("tester/m", model)
    hub.faults.add("info", what, times=9)
    with pytest.raises(ModelError):
        resolve_revision("tester/m", "model")
    assert [call for call, _, _ in hub.calls] == ["info"]
    assert not waits


def test_the_hub_says_how_long_to_wait_within_reason(hub, model, waits):
    hub.add_model("tester/m", model)
    hub.faults.add("info", 429, retry_after=7)
    hub.faults.add("info", 429, retry_after=100_000)
    resolve_revision("tester/m", "model")
    assert waits == [7, retries.LONGEST_WAIT]


def test_patience_ends_with_the_hubs_own_words(hub, model, waits):
    hub.add_model("tester/m", model)
    hub.faults.add("info", 429, times=99, retry_after=30)
    with pytest.raises(ModelError, match=r"limits the rate: run again in 30 s"):
        resolve_revision("tester/m", "model")
    assert len(waits) == retries.ATTEMPTS - 1
    hub.faults.clear()
    hub.faults.add("info", 503, times=99)
    with pytest.raises(ModelError, match="run again later"):
        resolve_revision("tester/m", "model")


@pytest.mark.parametrize("call", ["info", "tree"])
def test_a_silent_hub_is_given_up(hub, model, monkeypatch, call):
    commit = hub.add_model("tester/m", model)
    monkeypatch.setattr(client, "TIMEOUT", 0.5)
    close_session()
    hub.faults.add(call, "slow")
    assert resolve_model("tester/m").revision == commit
    close_session()


@pytest.mark.parametrize("what", [429, 503, *CUTS])
@pytest.mark.parametrize("call", ["resolve", "storage"])
def test_downloads_survive_what_passes(hub, model, call, what):
    hub.add_model("tester/m", model)
    hub.faults.add(call, what, times=2)
    ref = resolve_model("tester/m")
    assert (ref.path / "model.safetensors").read_bytes() == (
        model / "model.safetensors"
    ).read_bytes()


# -- the Hub of the tests


def test_a_flipped_byte_passes_the_download_and_fails_the_check(hub, model):
    hub.add_model("tester/m", model)
    hub.faults.add("storage", "flip")
    snapshot_download("tester/m")
    assert hub.faults.fired
    found = HfApi().verify_repo_checksums("tester/m", revision="main")
    assert [m["path"] for m in found.mismatches] == ["model.safetensors"]


def test_a_commit_on_an_old_parent_is_refused(hub, model):
    api = HfApi(token=hub.WRITE)
    old = hub.add_model("tester/m", model)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="tester/m")
    late = {"path_or_fileobj": b"2", "path_in_repo": "a.txt", "repo_id": "tester/m"}
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(**late, parent_commit=old)
    assert hub.read(hub.model("tester/m").tree()["a.txt"]) == b"1"


def test_what_the_hub_holds_survives_it(hub, model):
    commit = hub.add_model("tester/m", model, private=True)
    with Hub(hub.root) as again:
        assert again.model("tester/m").head == commit
        assert again.model("tester/m").private


def test_only_the_owner_with_a_write_token_writes(hub, model):
    hub.add_model("tester/m", model)
    for token in (hub.READ, hub.OTHER, False):
        api = HfApi(token=token)
        with pytest.raises(HfHubHTTPError):
            api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="tester/m")
    assert len(hub.model("tester/m").commits) == 1


def test_patience_is_for_calls_that_return(hub):
    assert patiently(lambda: 3) == 3
