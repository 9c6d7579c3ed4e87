"""Secrets stay here: no file that may hold one goes, and no text that shows one."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub.explanations import masked

NAMES = re.compile(r"\.env.*|.*\.(pem|key|netrc)|id_(rsa|ed25519).*|token|credentials.*")


def refuse_secret_files(folder: Path) -> None:
    """Refuse a folder with a link, or with a file that is named as secrets are."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PublishError(f"{name} is a link, which may lead anywhere: copy the file instead")
        if NAMES.fullmatch(path.name.lower()):
            raise PublishError(f"{name} may hold a secret: take it out of {folder.name}/")


def refuse_secrets_in_file(path: Path, name: str, token: str | None) -> None:
    """Refuse a file with what looks like a token in its text or rows; weights hold neither."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for column, values in zip(batch.schema.names, batch.columns, strict=True):
                    refuse_secrets(values.to_pylist(), f"{name}, column {column},", token)
    elif path.suffix != ".safetensors":
        refuse_secrets(path.read_text(encoding="utf-8", errors="replace"), name, token)


def refuse_secrets(value: object, name: str, token: str | None) -> None:
    """Refuse a value that holds what looks like a token, or this one, however deep."""
    text = "\n".join(_texts(value))
    if masked(text, token) != text:
        raise PublishError(f"{name} holds what looks like a Hub token: take it out")


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a value as they are: escaping would hide a token."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
