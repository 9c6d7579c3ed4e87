"""Where a model is and what it is: folders, the Hub, digests."""

import pytest

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import describe_model, resolve_model


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
    ],
)
def test_a_changed_file_changes_its_digest_only(copy, name, digest):
    before = describe_model(copy, "m")
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    after = describe_model(copy, "m")
    changed = {
        f for f in ("weights_digest", "template_digest") if getattr(before, f) != getattr(after, f)
    }
    assert changed == {digest}


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
