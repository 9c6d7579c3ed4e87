"""What goes to a repository: the files of a folder that are known by name, and no others."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from dpo_pipeline.errors import PublishError
from dpo_pipeline.publishing.cards import ADAPTER, Facts
from dpo_pipeline.publishing.secrets import refuse_secret_files, refuse_secrets_in_file
from dpo_pipeline.store.files import write_whole

Kind = Literal["model", "dataset"]

# A file goes only under one of these names; one that an earlier run sent is taken away again.
ALLOWED: Mapping[Kind, re.Pattern[str]] = {
    "model": re.compile(
        r"(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
        r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map"
        r"|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|(tokenizer|spiece)\.model"
        r"|chat_template\.jinja|README\.md"
    ),
    "dataset": re.compile(r"data/(train|test)-\d{5}-of-\d{5}\.parquet|dataset\.json|README\.md"),
}
SPLITS = {"train": "train.parquet", "test": "held_out.parquet"}
RUN_TAG = "run-"


@dataclass(frozen=True)
class Upload:
    """One repository as it shall be.

    Attributes:
        tag: Names the run; marks the commit that holds the files.
        files: Path in the repository -> file here.
        left_out: Files of the folder that do not go.
    """

    kind: Kind
    repo: str
    tag: str
    files: dict[str, Path]
    left_out: list[str]


def plan_uploads(facts: Facts, token: str | None, out: Path) -> list[Upload]:
    """List what goes, the dataset first: the model's card names its commit.

    Args:
        facts: Repositories, folders, and the base of an adapter.
        token: None of the files may hold it.
        out: Gets what does not go as it lies here.
    Raises:
        PublishError: A folder holds a link or a secret, or an adapter's base is not on the Hub.
    """
    uploads, tag = [], f"{RUN_TAG}{facts.run_id}"
    if facts.dataset_repo:
        refuse_secret_files(facts.dataset)
        uploads.append(Upload("dataset", facts.dataset_repo, tag, *_dataset_files(facts.dataset)))
    if facts.model_repo:
        refuse_secret_files(facts.model)
        uploads.append(Upload("model", facts.model_repo, tag, *_model_files(facts, out)))
    for upload in uploads:
        for name, path in upload.files.items():
            refuse_secrets_in_file(path, name, token)
    return uploads


def _listed(folder: Path) -> dict[str, Path]:
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def _dataset_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    here = _listed(folder)
    files = {"dataset.json": here.pop("dataset.json")}
    for split, name in SPLITS.items():
        # load_dataset cannot tell the columns of a split without rows.
        if pq.read_metadata(here[name]).num_rows:
            files[f"data/{split}-00000-of-00001.parquet"] = here.pop(name)
    return files, list(here)


def _model_files(facts: Facts, out: Path) -> tuple[dict[str, Path], list[str]]:
    here = _listed(facts.model)
    files = {name: path for name, path in here.items() if ALLOWED["model"].fullmatch(name)}
    left_out = [name for name in here if name not in files]
    if adapter := files.get(ADAPTER):
        base = facts.lineage.model
        if base.revision is None:
            raise PublishError(
                f"an adapter is of no use without its base, and {base.name} is not on the Hub: "
                "set train.lora.merge to true"
            )
        # Training wrote where the base lies on this machine.
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        settings |= {"base_model_name_or_path": base.name, "revision": base.revision}
        files[ADAPTER] = out / "model" / ADAPTER
        write_whole(files[ADAPTER], json.dumps(settings, indent=2) + "\n")
    return files, left_out
