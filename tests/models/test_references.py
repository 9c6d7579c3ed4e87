"""Where a model is and what it is: folders, the Hub, digests."""

import json
import os
import shutil

import pytest
from tiny import edit_json

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import as_described, describe_model, resolve_model
from dpo_pipeline.store import digests


def test_a_folder_is_described_by_digests_of_its_content(tiny, copy):
    here, there = resolve_model(str(tiny)), resolve_model(str(copy))
    assert here.revision is None
    assert here.path == tiny
    assert (here.weights_digest, here.template_digest) == (
        there.weights_digest,
        there.template_digest,
    )


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("model.safetensors", "weights_digest"),
        ("config.json", "weights_digest"),
        ("chat_template.jinja", "template_digest"),
        ("tokenizer.json", "template_digest"),
        ("tokenizer_config.json", "template_digest"),
        ("generation_config.json", "template_digest"),
        ("additional_chat_templates/tools.jinja", "template_digest"),
        ("model.safetensors.index.json", "weights_digest"),
    ],
)
def test_a_changed_file_changes_its_digest_only(copy, name, digest):
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    index = {"weight_map": {"model.embed_tokens.weight": "model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    before = describe_model(copy, "m")
    with (copy / name).open("ab") as file:
        file.write(b" ")
    after = describe_model(copy, "m")
    changed = {
        f for f in ("weights_digest", "template_digest") if getattr(before, f) != getattr(after, f)
    }
    assert changed == {digest}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("config.json", "{", "is no JSON"),
        ("config.json", "[" * 100_000, "is no JSON"),
        ("config.json", "[]", "holds list"),
        ("config.json", '{"num_hidden_layers": 1000000000}', "num_hidden_layers = 1,000,000,000"),
        ("config.json", '{"text": {"n_layer": 5000}}', "n_layer = 5,000, and no model has as many"),
        ("config.json", '{"vocab_size": ' + "1" * 5000 + "}", "is no JSON"),
        ("generation_config.json", "[" * 100_000, "is no JSON"),
        ("tokenizer_config.json", "[" * 100_000, "is no JSON"),
        ("tokenizer.json", "[]", "holds list"),
        ("model.safetensors.index.json", "{}", "names no weights"),
        ("model.safetensors.index.json", '{"weight_map": []}', "names no weights"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}', "'../x.safe"),
    ],
)
def test_a_broken_file_is_named(copy, name, content, why):
    (copy / name).write_text(content)
    with pytest.raises(ModelError, match=why):
        describe_model(copy, "m")


def test_a_link_may_not_lead_out_of_the_folder(copy, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a key")
    (copy / "vocab.txt").symlink_to(secret)
    with pytest.raises(ModelError, match=r"vocab\.txt links to .*secret\.txt, outside"):
        describe_model(copy, "m")


def test_nor_may_one_among_the_other_chat_templates(copy, tmp_path):
    (tmp_path / "secret.txt").write_text("a key")
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tools.jinja").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ModelError, match=r"tools\.jinja links to .*secret\.txt, outside"):
        describe_model(copy, "m")


def test_a_template_is_another_in_another_place(copy):
    before = describe_model(copy, "m").template_digest
    (copy / "additional_chat_templates").mkdir()
    (copy / "chat_template.jinja").rename(copy / "additional_chat_templates/chat_template.jinja")
    assert describe_model(copy, "m").template_digest != before


@pytest.fixture
def adapter(copy, tmp_path):
    """A folder that adds nothing to its base, the copy."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(copy)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_another_on_another_base(copy, adapter):
    before = describe_model(adapter, "a")
    edit_json(copy / "config.json", rms_norm_eps=1e-3)
    after = describe_model(adapter, "a")
    assert after.weights_digest != before.weights_digest
    assert after.template_digest == before.template_digest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "/no/such"}, "no such folder"),
        ({"base_model_name_or_path": "adapter"}, "holds an adapter, and no model"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "names code"),
    ],
)
def test_an_adapter_without_a_base_or_with_code_is_refused(adapter, change, why, monkeypatch):
    monkeypatch.chdir(adapter.parent)
    edit_json(adapter / "adapter_config.json", **change)
    with pytest.raises(ModelError, match=why):
        describe_model(adapter, "a")


def test_a_pickled_adapter_beside_something_else_is_refused(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "other.safetensors")
    (adapter / "adapter_model.bin").write_bytes(b"never read")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors .* pickle is never read"):
        describe_model(adapter, "a")


def put_back(file):
    """Change a file, and let it look as before: size, and time of writing."""
    content, told, probe = file.read_bytes(), file.stat(), file.with_name("probe")
    probe.touch()
    while probe.stat().st_ctime_ns == told.st_ctime_ns:  # the clock of files is coarse
        probe.touch()
    file.write_bytes(content[::-1])
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))


def replaced(file):
    """Put another file in its place."""
    (other := file.with_name("other")).write_bytes(file.read_bytes()[::-1])
    other.replace(file)


@pytest.mark.parametrize("change", [put_back, replaced])
@pytest.mark.parametrize(
    ("name", "part"), [("model.safetensors", "weights"), ("chat_template.jinja", "template")]
)
def test_a_file_that_changes_is_noticed_before_it_is_read_and_while(copy, name, part, change):
    ref = describe_model(copy, "m")
    content, noticed = (copy / name).read_bytes(), pytest.raises(ModelError, match="changed after")
    with noticed, as_described(ref, part):
        change(copy / name)
        replaced(copy / name)  # back again
    assert (copy / name).read_bytes() == content
    with as_described(ref, part):
        pass
    change(copy / name)
    with noticed, as_described(ref, part):
        raise AssertionError


def test_a_file_is_hashed_once_a_process(copy, monkeypatch):
    monkeypatch.setattr(digests, "GRAIN", 0)
    ref = describe_model(copy, "m")
    monkeypatch.setattr(digests, "file_digest", None)
    with as_described(ref, "weights"), as_described(ref, "template"):
        pass


def test_a_snapshot_of_the_hub_links_to_its_blobs(copy, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0"
    shutil.copytree(copy, snapshot)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    (snapshot / "config.json").rename(blobs / "1")
    (snapshot / "config.json").symlink_to(blobs / "1")
    assert describe_model(snapshot, "m").weights_digest == describe_model(copy, "m").weights_digest


@pytest.mark.parametrize("name", ["/no/such/folder", "../elsewhere", "a/b/c", "what is this"])
def test_a_name_that_is_neither_folder_nor_id_says_so(name):
    with pytest.raises(ModelError, match="no such folder, and not a Hub id"):
        resolve_model(name)


def test_a_file_in_place_of_a_folder_says_so(tiny):
    with pytest.raises(ModelError, match="is a file"):
        resolve_model(str(tiny / "config.json"))


def test_pickled_weights_are_refused(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin: a pickle"):
        resolve_model(str(copy))


def test_a_folder_without_a_model_says_what_is_missing(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        resolve_model(str(copy))
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(str(tmp_path))


def test_a_hub_model_comes_at_one_commit_without_its_pickles(connected, copy):
    (copy / "pytorch_model.bin").write_bytes(b"never downloaded")
    commit = connected.add_model("lab/chat", copy)
    ref = resolve_model("lab/chat", "main")
    assert (ref.name, ref.revision) == ("lab/chat", commit)
    assert not list(ref.path.rglob("*.bin"))
    assert ref.weights_digest == describe_model(copy, "copy").weights_digest
    assert load_tokenizer(ref).chat_template


def test_a_hub_model_that_is_only_a_pickle_is_refused(connected, copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    connected.add_model("lab/pickle", copy)
    with pytest.raises(ModelError, match="never read"):
        resolve_model("lab/pickle")


def test_a_hub_model_that_is_missing_or_gated_says_what_to_do(connected, copy):
    connected.add_model("lab/gated", copy, gated=True)
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model("lab/nothing")
    with pytest.raises(ModelError, match="access"):
        resolve_model("lab/gated")


def test_offline_the_cache_serves_what_it_has(hub, tiny, tmp_path):
    commit = hub.add_model("lab/offline", tiny)
    code = (
        "from dpo_pipeline.models.references import resolve_model\n"
        "try: print(resolve_model('lab/{}').revision)\n"
        "except Exception as error: print(error)"
    )
    assert hub.run(code.format("offline"), home=tmp_path).strip() == commit
    again = hub.run(code.format("offline"), home=tmp_path, HF_HUB_OFFLINE="1")
    assert again.strip() == commit
    never = hub.run(code.format("other"), home=tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in never


def test_resolving_does_not_import_torch(hub, tiny, tmp_path):
    code = (
        "import sys; from dpo_pipeline.models.references import resolve_model\n"
        f"resolve_model({str(tiny)!r})\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert hub.run(code, home=tmp_path).split() == ["False", "False"]
