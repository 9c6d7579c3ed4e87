import json
import shutil
from pathlib import Path

import pytest
from hub_server import Hub
from tiny import DEFAULT_SYSTEM, make_tiny_model

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.chat_templates import encode, end_tokens, render
from dpo_pipeline.models.devices import pick_precision
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model, resolve_model

USER = {"role": "user", "content": "Who are you?"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "qwen2")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with Hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def connected(hub, monkeypatch):
    from huggingface_hub import constants

    hub.connect(monkeypatch)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return hub


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Where a model is


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


# From the Hub


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
        "from dpo_pipeline.models import resolve_model\n"
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
        "import sys; from dpo_pipeline.models import resolve_model\n"
        f"resolve_model({str(tiny)!r})\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    assert hub.run(code, home=tmp_path).split() == ["False", "False"]


# Loading


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


def test_a_tensor_of_another_shape_is_refused(copy):
    edit_json(copy / "config.json", intermediate_size=96)
    with pytest.raises(ModelError, match="does not load"):
        load_model(resolve_model(str(copy)), "cpu")


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


# Prompts


def test_a_chat_template_writes_the_prompt_with_its_own_default_system(tiny):
    tokenizer = load_tokenizer(resolve_model(str(tiny)))
    text = render(tokenizer, [USER])
    assert text.startswith(f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>")
    assert text.endswith("<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n")
    assert DEFAULT_SYSTEM not in render(tokenizer, [SYSTEM, USER])
    ids = encode(tokenizer, [USER])
    assert tokenizer.decode(ids) == text
    assert len(ids) == 34
    assert ids[0] == 1  # a control token, not its letters


def test_a_base_model_reads_the_instruction_format(base):
    tokenizer = load_tokenizer(resolve_model(str(base)))
    answered = [USER, {"role": "assistant", "content": "A model."}, USER]
    question = "### Instruction:\nWho are you?\n\n### Response:\n"
    assert render(tokenizer, [USER]) == question
    assert render(tokenizer, [SYSTEM, USER]) == f"Be brief.\n\n{question}"
    assert render(tokenizer, answered) == f"{question}A model.\n\n{question}"
    assert tokenizer.decode(encode(tokenizer, [USER])) == question
    assert len(encode(tokenizer, [USER])) == 14


def test_a_hostile_template_stays_in_its_sandbox(copy):
    jinja = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (copy / "chat_template.jinja").write_text(jinja)
    tokenizer = load_tokenizer(resolve_model(str(copy)))
    with pytest.raises(Exception, match="unsafe"):
        render(tokenizer, [USER])


def test_answers_end_at_the_tokens_of_config_tokenizer_and_template(copy):
    ref = resolve_model(str(copy))
    tokenizer = load_tokenizer(ref)
    assert end_tokens(ref, tokenizer) == (2,)
    # As published models have it: the config names one end token, the template writes another.
    edit_json(copy / "generation_config.json", eos_token_id=[0])
    tokenizer.eos_token = "<|endoftext|>"
    assert end_tokens(ref, tokenizer) == (0, 2)


def test_a_model_without_any_end_token_is_refused(base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "endless"))
    (folder / "generation_config.json").unlink()
    ref = resolve_model(str(folder))
    tokenizer = load_tokenizer(ref)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end token"):
        end_tokens(ref, tokenizer)


def test_a_tokenizer_that_is_not_there_or_loses_words_is_refused(copy):
    # transformers makes an empty tokenizer for a folder without one, and says nothing.
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(resolve_model(str(copy)))
    for path in [*copy.glob("token*"), *copy.glob("*.jinja")]:
        path.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(resolve_model(str(copy)))
