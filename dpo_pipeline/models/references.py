"""Models at rest, folders of safetensors: where one is, and what it is (digests)."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal

from dpo_pipeline.errors import ModelError
from dpo_pipeline.hub.client import ask, resolve_revision
from dpo_pipeline.store.digests import Stamp, known_digest, stamp
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.settings import NoEffect

DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WORDS = ("token*.json", "vocab*", "merges.txt", "*.model", "*tokens*.json")
TEMPLATE = (*WORDS, "*.jinja", "additional_chat_templates/*.jinja", "generation_config.json")
CONFIG, ADAPTER, INDEX = "config.json", "adapter_config.json", "model.safetensors.index.json"
MOST = 4096  # layers, or experts: each is built before its weights are looked at


class GgufOrigin(Record):
    """The GGUF file that weights were dequantised from."""

    source: str  # its name, or what it came in
    digest: str  # sha256


class ModelRef(Record):
    """A model at rest: where it lies and what it is (sha256)."""

    name: NoEffect[str]  # as configured: a folder, a file, a Hub id, "starter" or "smollm2"
    path: NoEffect[Path]
    revision: NoEffect[str | None]  # commit of a Hub model
    weights_digest: str  # of the safetensors and the config; of an adapter, with its base
    template_digest: str  # of what turns messages into tokens and ends an answer
    gguf: NoEffect[GgufOrigin | None] = None  # null: it was no GGUF file


class ModelStats(Record):
    """What a stage that makes or finds a model knows of it."""

    model: ModelRef  # a relative path counts from the artifact's folder


def resolve_model(name: str, revision: str | None = None, *, whole: bool = False) -> ModelRef:
    """Find a local folder, or a Hub model at one commit; cheap errors before anything loads.

    Whole: an adapter is refused.

    Raises:
        ModelError: It is neither, or the Hub does not give it; the message says what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return describe_model(folder.absolute(), name, whole=whole)
    if folder.exists():
        raise ModelError(f"model.name {name!r} is a file; give a *.gguf file, or the folder that "
                         "holds config.json")  # fmt: skip
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "/")):
        raise ModelError(
            f"model.name {name!r}: no such folder, and not a Hub id (owner/name), "
            f"GGUF file or short name; folders are looked up from {Path.cwd()}"
        )
    from huggingface_hub import snapshot_download

    commit = resolve_revision(name, "model", revision)

    def download() -> str:
        return snapshot_download(
            name, revision=commit, allow_patterns=DOWNLOADED, ignore_patterns="*/*"
        )

    return describe_model(Path(ask(download, name, "model")), name, commit, whole=whole)


def describe_model(
    path: Path, name: str, revision: str | None = None, *, whole: bool = False
) -> ModelRef:
    """Digest a model folder; whole: an adapter is refused.

    Raises:
        ModelError: It has no config, or no weights in safetensors; or a file is broken, or a link
            that leads elsewhere.
    """
    configs = [config for config in (CONFIG, ADAPTER) if (path / config).is_file()]
    if not configs:
        raise ModelError(f"{name}: no config.json in {path}: give the folder of a saved model")
    if whole and CONFIG not in configs:
        raise ModelError(f"{name}: {path} holds an adapter, and no model: merge it with its own")
    weights = {file.name for file in path.glob("*.safetensors")}
    if not weights:
        pickles = ", ".join(sorted(p.name for pattern in PICKLES for p in path.glob(pattern)))
        raise ModelError(
            f"{name}: no *.safetensors in {path}{f', only {pickles}' if pickles else ''}: a pickle "
            "can run code when it loads and is never read; convert it where you trust it, with "
            "from_pretrained(...) and save_pretrained(...)"
        )
    _check_inside(path, name)
    for file in (*weight_files(path), *template_files(path)):
        if file.suffix == ".json":
            _check(read_object(file, name), file, weights, name)
    return ModelRef(
        name=name,
        path=path,
        revision=revision,
        weights_digest=_weights_digest(path, name),
        template_digest=_digest(template_files(path), path),
    )


def weight_files(folder: Path) -> list[Path]:
    """List what the weights digest of a model covers: safetensors, their index, the configs."""
    named = [folder / INDEX, folder / CONFIG, folder / ADAPTER]
    return [*sorted(folder.glob("*.safetensors")), *(file for file in named if file.is_file())]


def template_files(folder: Path) -> list[Path]:
    """List what the template digest of a model covers."""
    return sorted({file for pattern in TEMPLATE for file in folder.glob(pattern)})


def base_of(folder: Path, name: str) -> ModelRef | None:
    """Describe the model that an adapter is for; None where a folder holds a whole model.

    Raises:
        ModelError: It names none that is there.
    """
    if (folder / CONFIG).is_file():
        return None
    told = read_object(folder / ADAPTER, name)
    base, revision = told.get("base_model_name_or_path"), told.get("revision")
    if not (isinstance(base, str) and isinstance(revision, str | None)):
        raise ModelError(f"{name}: {folder / ADAPTER} names no base model: save the adapter again")
    return resolve_model(base, revision, whole=True)


@contextmanager
def as_described(ref: ModelRef, part: Literal["weights", "template"]) -> Iterator[None]:
    """Hold that what a block reads of a model is what one of its digests is of.

    Before the block the files are hashed, once a process as long as the file system says that they
    are the same; after it the file system must still say so: which file a name leads to, by which
    link; its size; when it was written, renamed or replaced. So a file that was changed, or put in
    place of another, is noticed even where it was put back. Not noticed is what does not change
    these times: a second write within the few milliseconds of their grain, a clock that was set
    back, a disk that is written past its file system, writes through memory that was mapped before.
    Nor is what changes after the block: its reader copies what it keeps.

    Raises:
        ModelError: The files are not those that were described.
    """
    before = _stamps(ref, part)
    if part == "weights":
        same = _weights_digest(ref.path, ref.name) == ref.weights_digest
    else:
        same = _digest(template_files(ref.path), ref.path) == ref.template_digest
    if same:
        yield
    if not same or _stamps(ref, part) != before:
        raise ModelError(
            f"{ref.name}: files in {ref.path} changed after they were looked at, or while they "
            "were read: start the run again when nobody writes there"
        )


def _weights_digest(folder: Path, name: str) -> str:
    base = base_of(folder, name)
    return _digest(weight_files(folder), folder, base.weights_digest if base else "")


def _stamps(ref: ModelRef, part: str) -> dict[Path, Stamp]:
    files = template_files(ref.path)
    if part == "weights":
        base = base_of(ref.path, ref.name)
        files = [*weight_files(ref.path), *(weight_files(base.path) if base else ())]
    return {file: stamp(file) for file in files}


def read_object(file: Path, name: str) -> dict[str, object]:
    """Read a JSON file of a model.

    Raises:
        ModelError: It is no JSON object.
    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{name}: {file} is no JSON ({error}): the copy is damaged; download it again"
        ) from None
    if not isinstance(content, dict):
        raise ModelError(f"{name}: {file} holds {type(content).__name__}, and no JSON object")
    return content


def _check(content: dict[str, object], file: Path, weights: set[str], name: str) -> None:
    """Refuse what a file of a model says where it would be costly or dangerous to follow it."""
    if file.name == INDEX:
        _check_index(content, file, weights, name)
    elif file.name == CONFIG:
        parts = (content, *(part for part in content.values() if isinstance(part, dict)))
        for key, n in chain.from_iterable(part.items() for part in parts):
            if ("layer" in key or "expert" in key) and isinstance(n, int) and n > MOST:
                raise ModelError(f"{name}: {file} asks for {key} = {n:,}, and no model has as many")
    elif file.name == ADAPTER:
        if "adapter_model.safetensors" not in weights:
            raise ModelError(f"{name}: no adapter_model.safetensors in {file.parent}; a pickle is "
                             "never read: save the adapter again")  # fmt: skip
        if content.get("megatron_config"):
            raise ModelError(f"{name}: {file} names code (megatron_core), which is never run")


def _check_index(content: dict[str, object], index: Path, weights: set[str], name: str) -> None:
    named = content.get("weight_map")
    parts = set(map(str, named.values())) if isinstance(named, dict) else set()
    if not parts or (strange := sorted(parts - weights)):
        what = f"names {strange[0]!r}, which is" if parts else "names no weights that are"
        raise ModelError(
            f"{name}: {index} {what} not among the *.safetensors beside it: the copy is damaged; "
            "download it again"
        )


def _check_inside(folder: Path, name: str) -> None:
    """Refuse links that lead out of a model's folder; a snapshot of the Hub links to its blobs."""
    inside = [folder.resolve()]
    if folder.parent.name == "snapshots":
        inside.append(folder.parent.parent.resolve() / "blobs")
    for file in chain(folder.iterdir(), folder.glob("additional_chat_templates/*")):
        target = file.resolve()
        if file.is_symlink() and not any(map(target.is_relative_to, inside)):
            raise ModelError(
                f"{name}: {file} links to {target}, outside the model's folder: put a copy there"
            )


def _digest(files: Iterable[Path], folder: Path, more: str = "") -> str:
    listed = (f"{file.relative_to(folder)}\0{known_digest(file)}\n" for file in files)
    return hashlib.sha256(("".join(listed) + more).encode()).hexdigest()
