"""What is handed random bytes: each target ends well or with the error that it promises.

`tests/fuzz` tries them on every run of the tests and with what was found before; `make fuzz` lets
atheris look for more, guided by the code that an input reaches.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from identities import QWEN
from jinja2 import TemplateError

from dpo_pipeline.errors import DataError
from dpo_pipeline.models import chat_templates, limits
from dpo_pipeline.prompts.columnar import file_rows as columnar_rows
from dpo_pipeline.prompts.formats import READERS
from dpo_pipeline.prompts.quarantine import Unreadable
from dpo_pipeline.starter.build import STARTER
from dpo_pipeline.store.artifacts import MANIFEST, Store
from dpo_pipeline.store.records import Record

SUFFIXES = tuple(READERS)
TURNS = ({"role": "system", "content": "s"}, {"role": "user", "content": "u"})


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def formats(data: bytes) -> None:
    """Read a source: the first byte says which format; rows, unreadable rows or a DataError."""
    suffix = SUFFIXES[data[0] % len(SUFFIXES)] if data else ".json"
    path = folder() / f"source{suffix}"
    path.write_bytes(data[1:])
    # What a process of its own reads is read here, where it can be followed.
    columnar = READERS[suffix] is READERS[".parquet"]
    rows = columnar_rows(str(path)) if columnar else (row for _, row in READERS[suffix](path))
    with suppress(DataError):
        for row in rows:
            assert not isinstance(row, Unreadable) or row.detail


def rewriting(data: bytes) -> None:
    """Rewrite a text: twice is once, and nothing is left to replace."""
    text = data.decode("utf-8", "ignore")
    found = QWEN.rewrite(text)
    assert QWEN.rewrite(found.text).text == found.text
    assert QWEN.count_original(found.text) == 0


@cache
def tokenizer() -> Any:
    from dpo_pipeline.models.loading import load_tokenizer
    from dpo_pipeline.models.references import describe_model

    limits.SECONDS = 1.0
    return load_tokenizer(describe_model(STARTER, "starter"))


def templates(data: bytes) -> None:
    """Render a chat template: a text of bounded length, or an error of the template."""
    toy = tokenizer()
    toy.chat_template = data.decode("utf-8", "ignore") or "-"
    with suppress(TemplateError):
        assert len(chat_templates.render(toy, TURNS)) <= limits.LONGEST + 2
        chat_templates.default_block(toy)


def manifest(data: bytes) -> None:
    """Look up an artifact whose manifest is anything: it is set aside, or of another version."""
    store, key = Store(folder() / "store"), "0" * 32
    path = store.path("save", key) / MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    assert store.get("save", key, Record) is None
    store.latest_parts("save")


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (formats, rewriting, templates, manifest)
}
