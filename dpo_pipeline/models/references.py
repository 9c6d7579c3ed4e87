"""Models at rest, folders of safetensors: where one is, and what it is (digests)."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from dpo_pipeline.errors import ModelError
from dpo_pipeline.hub.client import ask, resolve_revision
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.settings import NoEffect

DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WORDS = ("token*.json", "vocab*", "merges.txt", "*.model", "*tokens*.json")
TEMPLATE = (*WORDS, "*.jinja", "additional_chat_templates/*.jinja", "generation_config.json")
INDEX = "model.safetensors.index.json"


class GgufOrigin(Record):
    """The GGUF file that weights were dequantised from."""

    source: str  # its name, or what it came in
    digest: str  # sha256


class ModelRef(Record):
    """A model at rest: where it lies and what it is (sha256)."""

    name: NoEffect[str]  # as configured: a folder, a file, a Hub id, "starter" or "smollm2"
    path: NoEffect[Path]
    revision: NoEffect[str | None]  # commit of a Hub model
    weights_digest: str  # of the safetensors and the config
    template_digest: str  # of what turns messages into tokens and ends an answer
    gguf: NoEffect[GgufOrigin | None] = None  # null: it was no GGUF file


class ModelStats(Record):
    """What a stage that makes or finds a model knows of it."""

    model: ModelRef  # a relative path counts from the artifact's folder


def resolve_model(name: str, revision: str | None = None) -> ModelRef:
    """Find a local folder, or a Hub model at one commit; cheap errors before anything loads.

    Raises:
        ModelError: It is neither, or the Hub does not give it; the message says what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return describe_model(folder.absolute(), name)
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

    return describe_model(Path(ask(download, name, "model")), name, commit)


def describe_model(path: Path, name: str, revision: str | None = None) -> ModelRef:
    """Digest a model folder.

    Raises:
        ModelError: It has no config, or no weights in safetensors.
    """
    weights = sorted(path.glob("*.safetensors"))
    configs = [p for n in ("config.json", "adapter_config.json") if (p := path / n).is_file()]
    if not configs:
        raise ModelError(f"{name}: no config.json in {path}: give the folder of a saved model")
    if not weights:
        pickles = ", ".join(sorted(p.name for pattern in PICKLES for p in path.glob(pattern)))
        raise ModelError(
            f"{name}: no *.safetensors in {path}{f', only {pickles}' if pickles else ''}: a pickle "
            "can run code when it loads and is never read; convert it where you trust it, with "
            "from_pretrained(...) and save_pretrained(...)"
        )
    _check_inside(path, name)
    for config in configs:
        read_object(config, name)
    if (index := path / INDEX).is_file():
        _check_index(index, {file.name for file in weights}, name)
        weights.append(index)
    template = {file for pattern in TEMPLATE for file in path.glob(pattern)}
    return ModelRef(
        name=name,
        path=path,
        revision=revision,
        weights_digest=_digest([*weights, *configs]),
        template_digest=_digest(sorted(template)),
    )


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


def _check_index(index: Path, weights: set[str], name: str) -> None:
    named = read_object(index, name).get("weight_map")
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
    for file in folder.iterdir():
        target = file.resolve()
        if file.is_symlink() and not any(map(target.is_relative_to, inside)):
            raise ModelError(
                f"{name}: {file} links to {target}, outside the model's folder: put a copy there"
            )


def _digest(files: Sequence[Path]) -> str:
    listed = "".join(f"{path.name}\0{file_digest(path)}\n" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()
