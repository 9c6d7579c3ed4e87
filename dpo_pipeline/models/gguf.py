"""GGUF files in: found, checked, and dequantised into an ordinary model folder."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dpo_pipeline.errors import ModelError
from dpo_pipeline.hub.client import ask, resolve_revision
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import (
    MOST,
    GgufOrigin,
    ModelRef,
    ModelStats,
    describe_model,
)
from dpo_pipeline.store.digests import known_digest, stamp

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[int, int, str], None]  # takes tensors done, tensors in all, and a note
logger = logging.getLogger(__name__)

MAGIC = b"GGUF"
ON_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[\w./-]+\.gguf)")
ORIGINAL = "or name the folder or Hub id of the model that it was made from"
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# How a byte-level vocabulary splits text before its merges (tokenizer.ggml.pre): as GPT-2 does, or
# the same with every digit alone. transformers knows other ways, and takes the first for the rest.
AS_GPT2 = {"gpt-2", "mpt", "olmo", "jais"}
DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"}
SPOKEN = "Who are you?  I'm 12 of 345.\n\tGrüße, 你好 🙂  7"


class GgufFile(NamedTuple):
    """A GGUF file on this machine, and where it is from."""

    path: Path
    name: str  # as configured, or the Hub id
    revision: str | None  # commit of a file on the Hub
    digest: str  # sha256


def find_gguf(name: str, revision: str | None = None) -> GgufFile | None:
    """Find a local *.gguf file, or `owner/repo:file.gguf` on the Hub at one commit.

    Returns:
        None where the name is of neither kind.
    Raises:
        ModelError: There is no such file, or it is no GGUF file.
    """
    if not name.endswith(".gguf"):
        return None
    path, origin, commit = Path(name).expanduser().absolute(), name, None
    if (there := ON_HUB.fullmatch(name)) and not path.exists():
        path, origin, commit = _download(there["repo"], there["file"], revision)
    elif not path.is_file():
        raise ModelError(
            f"model.name {name!r}: no such file, and not one on the Hub (owner/repo:file.gguf); "
            f"files are looked up from {Path.cwd()}"
        )
    with path.open("rb") as file:
        if (start := file.read(len(MAGIC))) != MAGIC:
            raise ModelError(f"{name} is no GGUF file: it begins with {start!r}, not {MAGIC!r}; "
                             "download it again")  # fmt: skip
    return GgufFile(path, origin, commit, known_digest(path))


def _download(repo: str, file: str, revision: str | None) -> tuple[Path, str, str]:
    from huggingface_hub import hf_hub_download

    commit = resolve_revision(repo, "model", revision)
    path = ask(lambda: hf_hub_download(repo, file, revision=commit), repo, "model")
    return Path(path), repo, commit


def import_gguf(gguf: GgufFile, source: str, out: Path, on_progress: Progress) -> ModelStats:
    """Dequantise a GGUF file into the folder `model`, in bfloat16; record it in `model.json`.

    Args:
        gguf: The file.
        source: What it is called in the record: its own name, or that of what it came in.
        out: An empty folder.
        on_progress: Is told of every tensor.

    Raises:
        ModelError: The file is damaged or incomplete, its architecture is not supported, the
            tokenizer made of it is not the one that it describes, or it has changed.
    """
    before = stamp(gguf.path)
    reader = _read(gguf.path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    on_progress(0, len(tensors), "reading the tokenizer")
    folder, tokenizer = out / "model", _make_tokenizer(gguf.path, reader)
    with _following(on_progress):
        model = _load(gguf.path, _said(reader, "general.architecture"))
    _tie_again(model, tensors)
    on_progress(len(tensors), len(tensors), "saving")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if terms := _said(reader, "general.license"):
        (folder / "README.md").write_text(f"---\nlicense: {terms}\n---\n", encoding="utf-8")
    if known_digest(gguf.path) != gguf.digest or stamp(gguf.path) != before:
        raise ModelError(f"{gguf.path} changed after it was looked at: start the run again")
    ref = describe_model(folder, gguf.name, gguf.revision)
    _check_tokenizer(ref, reader)
    origin = GgufOrigin(source=source, digest=gguf.digest)
    stats = ModelStats(model=ref.model_copy(update={"path": Path(folder.name), "gguf": origin}))
    stats.write(out / "model.json")
    return stats


def _read(path: Path) -> "GGUFReader":
    from gguf import GGUFReader

    class Reader(GGUFReader):
        """One that stops where the file does: a count in it may be of more than there is."""

        def _get(self, offset: int, dtype: Any, count: int = 1, *args: Any, **more: Any) -> Any:
            found = super()._get(offset, dtype, count, *args, **more)
            if len(found) != count:
                raise ValueError(f"{count} numbers are missing at byte {offset}")
            return found

    try:
        reader = Reader(path)
    except (ValueError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"{path.name} is cut off or damaged ({error}): download it again"
        ) from error
    for key in reader.fields:
        if (
            key.endswith((".block_count", ".expert_count"))
            and (n := int(_said(reader, key))) > MOST
        ):
            raise ModelError(f"{path.name} says {key} = {n:,}, and no model has as many")
    if (parts := _said(reader, "split.count")) and int(parts) > 1:
        raise ModelError(f"{path.name} is one of {parts} parts of a model: join them with "
                         "llama-gguf-split --merge")  # fmt: skip
    if not _said(reader, "tokenizer.chat_template"):
        raise ModelError(f"{path.name} holds no chat template (tokenizer.chat_template): take a "
                         f"file of a chat model that does, {ORIGINAL}")  # fmt: skip
    return reader


def _said(reader: "GGUFReader", key: str) -> str:
    """Return a value of the file's metadata as text; empty where it has none."""
    field = reader.get_field(key)
    return str(field.contents()) if field else ""


@contextmanager
def _following(on_progress: Progress) -> Iterator[None]:
    """Report every tensor that transformers dequantises, in place of its own bar."""
    from transformers import modeling_gguf_pytorch_utils

    loader: Any = modeling_gguf_pytorch_utils

    def follow(tensors: "Sequence[ReaderTensor]", **_: object) -> "Iterator[ReaderTensor]":
        for done, tensor in enumerate(tensors):
            on_progress(done, len(tensors), "dequantising")
            yield tensor

    bar, loader.tqdm = loader.tqdm, follow
    try:
        yield
    finally:
        loader.tqdm = bar


def _load(path: Path, architecture: str) -> "PreTrainedModel":
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # callers have their own
    place: Any = {"gguf_file": path.name, "local_files_only": True}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            **place,
            config=AutoConfig.from_pretrained(path.parent, **place),
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"{path.name} does not load as architecture {architecture!r}: {error}; take a file of "
            f"another, {ORIGINAL}"
        ) from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"{path.name} lacks {len(missing)} tensors ({', '.join(missing[:3])}): "
                         "download it again")  # fmt: skip
    return model  # type: ignore[no-any-return]


def _tie_again(model: "PreTrainedModel", tensors: "dict[str, ReaderTensor]") -> None:
    """Tie embeddings and head that are one matrix, quantised twice; the finer of the two stays.

    They are where they differ by no more than rounding to the bits of the coarser one explains.
    """
    import torch

    if "output.weight" not in tensors:
        return  # transformers has tied what is there once
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    embeddings, head = (cast("torch.Tensor", layer.weight) for layer in layers)
    kept = [tensors[name] for name in ("token_embd.weight", "output.weight")]
    bits = [8 * tensor.n_bytes / tensor.n_elements for tensor in kept]
    # The error of b bits is about 1.5 x 2^-b of the size; that of bfloat16 is at most 2^-9.
    allowed = min(0.5, max(8 * 2 ** -min(bits), 2**-8))
    with torch.no_grad():
        far = (embeddings.float() - head.float()).norm() / embeddings.float().norm()
        if not far <= allowed:
            return
        if bits[1] > bits[0]:
            embeddings.copy_(head)
    model.config.tie_word_embeddings = True
    model.tie_weights()


def _make_tokenizer(path: Path, reader: "GGUFReader") -> "PreTrainedTokenizerBase":
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    place: Any = {"gguf_file": path.name, "local_files_only": True}
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path.parent, **place)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(f"{path.name}: its tokenizer cannot be read: {type(error).__name__}: "
                         f"{error}; take another file, {ORIGINAL}") from error  # fmt: skip
    split = _said(reader, "tokenizer.ggml.pre")
    if _said(reader, "tokenizer.ggml.model") == "gpt2" and split not in GGUF_PRE_TOKENIZER_SPLITS:
        if split in DIGITS_ALONE:
            parts = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
            tokenizer.backend_tokenizer.pre_tokenizer = Sequence(parts)
        elif split not in AS_GPT2:
            told = "%s splits text as %r, which is not known here: taken as GPT-2's, %s"
            logger.warning(told, path.name, split, ORIGINAL)
    return tokenizer  # type: ignore[no-any-return]


def _check_tokenizer(ref: ModelRef, reader: "GGUFReader") -> None:
    """Hold the saved tokenizer against what the file says of it."""
    tokenizer = load_tokenizer(ref)
    tokens = reader.get_field("tokenizer.ggml.tokens")
    template = _said(reader, "tokenizer.chat_template")
    read = str(tokenizer.decode(tokenizer(SPOKEN, add_special_tokens=False)["input_ids"]))
    ids = {ours: _said(reader, f"tokenizer.ggml.{its}_token_id") for ours, its in SPECIAL.items()}
    differs = [
        f"{ours} token {getattr(tokenizer, f'{ours}_token_id')} in place of {its}"
        for ours, its in ids.items()
        if its and str(getattr(tokenizer, f"{ours}_token_id")) != its
    ]
    if tokens is None or len(tokenizer) != len(tokens.data):
        differs.append(f"{len(tokenizer)} tokens in place of {len(tokens.data) if tokens else 0}")
    if tokenizer.chat_template != template:
        differs.append("another chat template")
    if read.strip() != SPOKEN:
        differs.append(f"{read!r} is what it makes of {SPOKEN!r}")
    if differs:
        raise ModelError(f"{ref.name}: the tokenizer made of the file is not the one it describes "
                         f"({'; '.join(differs)}): take another file, {ORIGINAL}")  # fmt: skip
