"""A source is resolved to its exact bytes."""

from pathlib import Path

import pytest
from prompt_rows import jsonl, numbered

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.sources import SourceRef, read_source, resolve_source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nowhere.jsonl", "does not exist"),
        ("./nowhere", "does not exist"),
        (".", "is a folder"),
        ("../../no/such", "does not exist"),
        ("a/b/c", "neither a file nor a Hub id"),
        ("owner/na me", "neither a file nor a Hub id"),
        ("owner/-name", "neither a file nor a Hub id"),
        ("own\ner/name", "neither a file nor a Hub id"),
    ],
)
def test_a_source_that_is_not_there_is_explained(source: str, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        resolve_source(PromptsConfig(source=source))


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", numbered(3))
    copy = jsonl(tmp_path / "copy.jsonl", numbered(3))
    first, second = (resolve_source(PromptsConfig(source=str(p))) for p in (path, copy))
    assert first.digest == second.digest
    jsonl(path, numbered(4))
    with pytest.raises(DataError, match="changed or went away"):
        list(read_source(first, "train"))
    unknown = tmp_path / "rows.xlsx"
    unknown.write_bytes(b"PK")
    with pytest.raises(DataError, match="no known format"):
        resolve_source(PromptsConfig(source=str(unknown)))


def test_the_shipped_set_is_clean_and_split() -> None:
    source = resolve_source(PromptsConfig())
    assert source.kind == "shipped"
    assert source == SourceRef.model_validate_json(source.model_dump_json())
