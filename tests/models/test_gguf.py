"""A GGUF file becomes an ordinary model folder, or says why it cannot."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import CHATML, make_tiny_model
from tiny_gguf import write_gguf

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.chat_templates import end_tokens
from dpo_pipeline.models.gguf import SPOKEN, find_gguf, import_gguf
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelStats, describe_model
from dpo_pipeline.store.digests import file_digest


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture
def imported(llama, tmp_path) -> Callable[..., ModelStats]:
    """Write a GGUF file and import it; the paths of the record are whole."""

    def run(**how: object) -> ModelStats:
        found = find_gguf(str(write_gguf(llama, tmp_path / "tiny.gguf", **how)))
        (tmp_path / "out").mkdir()
        stats = import_gguf(found, "tiny.gguf", tmp_path / "out", lambda *told: seen.append(told))
        assert ModelStats.read(tmp_path / "out" / "model.json") == stats
        place = tmp_path / "out" / stats.model.path
        return stats.model_copy(update={"model": stats.model.model_copy(update={"path": place})})

    seen: list[tuple[int, int, str]] = []
    run.seen = seen  # type: ignore[attr-defined]
    return run


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_folder_holds_the_weights_the_tokenizer_and_where_they_are_from(
    llama, imported, tmp_path
):
    import torch

    stats = imported(embeddings="F32", head=None)
    ref, before, after = stats.model, weights(llama), weights(stats.model.path)
    assert before.keys() == after.keys()
    for name, matrix in after.items():
        assert matrix.dtype is torch.bfloat16
        # Q8_0 rounds to 1/254 of the largest of 32, bfloat16 to 2^-9 of each.
        bound = before[name].abs().max() / 127
        assert (matrix.float() - before[name]).abs().max() <= bound, name
    original = describe_model(llama, "llama")
    ours, theirs = load_tokenizer(ref), load_tokenizer(original)
    assert ours(SPOKEN)["input_ids"] == theirs(SPOKEN)["input_ids"]
    assert ours.chat_template == CHATML
    assert end_tokens(ref, ours) == end_tokens(original, theirs) == (2,)
    assert ref.gguf.model_dump() == {
        "source": "tiny.gguf",
        "digest": file_digest(tmp_path / "tiny.gguf"),
    }
    assert "license: apache-2.0" in (ref.path / "README.md").read_text()
    assert imported.seen[0][0] == 0
    assert imported.seen[-1][0] == imported.seen[-1][1] == len(before)


@pytest.mark.parametrize(
    ("types", "untied", "tied"),
    [
        (("Q4_0", "Q8_0"), False, True),
        (("Q8_0", "Q4_0"), False, True),
        (("F32", "F32"), False, True),
        (("Q4_0", None), False, True),
        (("Q4_0", "Q8_0"), True, False),
    ],
)
def test_embeddings_quantised_twice_are_tied_and_the_finer_are_kept(
    llama, imported, types, untied, tied
):
    stats = imported(embeddings=types[0], head=types[1], untied=untied)
    model = load_model(stats.model, "cpu", "float32")
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (embeddings is head) == tied
    true = weights(llama)["model.embed_tokens.weight"]
    off = (embeddings - true).norm() / true.norm()
    assert off < (0.01 if "Q4_0" not in types or (tied and types[1]) else 0.2)


def test_digits_are_split_as_the_file_says(imported):
    tokenizer = load_tokenizer(imported(split="smollm").model)
    pieces = [tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")]
    assert [text for text, _ in pieces[0]] == ["a", "ĠĠ", "1", "2"]


def test_an_unknown_way_to_split_is_told(imported, caplog):
    imported(split="newest")
    assert "splits text as 'newest'" in caplog.text


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"chat": False}, "holds no chat template"),
        ({"architecture": "rwkv6"}, "architecture rwkv6 is not supported"),
        ({"end": 600}, "its tokenizer cannot be read: IndexError"),
        ({"repeated": True}, "508 tokens in place of 509"),
    ],
)
def test_a_file_that_is_of_no_use_says_why(imported, how, expected):
    with pytest.raises(ModelError, match=expected):
        imported(**how)


def test_a_truncated_file_is_refused(llama, tmp_path):
    path = write_gguf(llama, tmp_path / "tiny.gguf")
    whole = path.read_bytes()
    for kept in (len(whole) - 64, len(whole) // 2, 5000, 20):
        path.write_bytes(whole[:kept])
        with pytest.raises(ModelError, match=r"tiny\.gguf is cut off or damaged"):
            import_gguf(find_gguf(str(path)), "tiny.gguf", tmp_path, lambda *_: None)


@pytest.mark.parametrize("at", [8, 16, 24])
def test_a_count_of_more_than_there_is_is_refused(llama, tmp_path, at):
    path = write_gguf(llama, tmp_path / "tiny.gguf")
    content = bytearray(path.read_bytes())
    content[at : at + 8] = (1 << 60).to_bytes(8, "little")  # tensors, fields, letters of a name
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"tiny\.gguf is cut off or damaged"):
        import_gguf(find_gguf(str(path)), "tiny.gguf", tmp_path, lambda *_: None)


def test_an_endless_list_in_a_file_is_refused(tmp_path):
    field = (1).to_bytes(8, "little") + b"a" + (9).to_bytes(4, "little")  # a: a list
    endless = (0).to_bytes(4, "little") + (1 << 60).to_bytes(8, "little")  # of so many bytes
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(8) + field[:8] + field + endless)
    with pytest.raises(ModelError, match=r"tiny\.gguf is cut off or damaged"):
        import_gguf(find_gguf(str(path)), "tiny.gguf", tmp_path, lambda *_: None)


def test_a_file_that_was_swapped_since_is_refused(llama, tmp_path):
    found = find_gguf(str(path := write_gguf(llama, tmp_path / "tiny.gguf")))
    write_gguf(llama, path, untied=True)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"tiny\.gguf changed after it was looked at"):
        import_gguf(found, "tiny.gguf", tmp_path / "out", lambda *_: None)


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "page.gguf").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match="is no GGUF file: it begins with b'vers'"):
        find_gguf(str(tmp_path / "page.gguf"))
    with pytest.raises(ModelError, match="no such file, and not one on the Hub"):
        find_gguf(str(tmp_path / "none.gguf"))
    assert find_gguf("owner/repo") is None


def test_a_file_on_the_hub_comes_at_one_commit(connected, llama, tmp_path):
    (tmp_path / "files").mkdir()
    path = write_gguf(llama, tmp_path / "files" / "tiny.gguf")
    commit = connected.add_model("lab/tiny-gguf", tmp_path / "files")
    found = find_gguf("lab/tiny-gguf:tiny.gguf", "main")
    assert (found.name, found.revision) == ("lab/tiny-gguf", commit)
    assert found.path.read_bytes() == path.read_bytes()
    with pytest.raises(ModelError, match=r"lacks .*other\.gguf"):
        find_gguf("lab/tiny-gguf:other.gguf")
