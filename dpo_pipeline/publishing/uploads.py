"""What goes to a repository: files that are known by name, and nothing that holds a secret."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub.client import RepoType
from dpo_pipeline.plaintext import scrub
from dpo_pipeline.publishing.cards import ADAPTER, DATA, Facts
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.tables import read_rows

# A file goes only under one of these names; one that an earlier run sent is taken away again.
ALLOWED: Mapping[RepoType, re.Pattern[str]] = {
    "model": re.compile(
        r"(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
        r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map"
        r"|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|(tokenizer|spiece)\.model"
        r"|chat_template\.jinja|README\.md"
    ),
    "dataset": re.compile(r"data/(train|test)-\d{5}-of-\d{5}\.parquet|dataset\.json|README\.md"),
}
SECRET = re.compile(r"\.env.*|.*\.(pem|key|netrc)|id_(rsa|ed25519).*|token|credentials.*")
PLACES = {"train.parquet": DATA.format("train"), "held_out.parquet": DATA.format("test")}


def choose_files(
    kind: RepoType, facts: Facts, token: str | None, out: Path
) -> tuple[dict[str, Path], list[str]]:
    """List what goes of a folder, by its path in the repository, and the files that stay.

    Args:
        kind: Of the repository, and so which folder.
        facts: The folders, and the base of an adapter.
        token: None of the files may hold it.
        out: Gets what does not go as it lies here.
    Raises:
        PublishError: The folder holds a link or a secret, or an adapter's base is not on the Hub.
    """
    folder = facts.model if kind == "model" else facts.dataset
    files, left_out = {}, []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PublishError(f"{name} is a link, which may lead anywhere: copy the file instead")
        if SECRET.fullmatch(path.name.lower()):
            raise PublishError(f"{name} may hold a secret: take it out of {folder.name}/")
        if path.is_file():
            place = PLACES.get(name, name)
            known = ALLOWED[kind].fullmatch(place)
            # load_dataset cannot tell the columns of a split without rows.
            if known and (path.suffix != ".parquet" or pq.read_metadata(path).num_rows):
                files[place] = path
            else:
                left_out.append(name)
    if adapter := files.get(ADAPTER):
        files[ADAPTER] = out / ADAPTER
        write_whole(files[ADAPTER], _on_the_hub(adapter, facts))
    for name, path in files.items():
        if path.suffix == ".parquet":
            for row in read_rows(path):
                for column, value in row.items():
                    refuse_secrets(value, f"{name}, column {column},", token)
        elif path.suffix != ".safetensors":  # weights hold no text
            refuse_secrets(path.read_text(encoding="utf-8", errors="replace"), name, token)
    return files, left_out


def _on_the_hub(adapter: Path, facts: Facts) -> str:
    """Name an adapter's base as the Hub knows it: training wrote where it lies on this machine."""
    base = facts.lineage.model
    if base.revision is None:
        raise PublishError(
            f"an adapter is of no use without its base, and {base.name} is not on the Hub: "
            "set train.lora.merge to true"
        )
    settings = json.loads(adapter.read_text(encoding="utf-8"))
    settings |= {"base_model_name_or_path": base.name, "revision": base.revision}
    return json.dumps(settings, indent=2) + "\n"


def refuse_secrets(value: object, name: str, token: str | None) -> None:
    """Refuse what looks like a token, or is this one, however deep: escaping would hide it."""
    if isinstance(value, str) and scrub(value, token) != value:
        raise PublishError(f"{name} holds what looks like a token or a password: take it out")
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            refuse_secrets(item, name, token)
