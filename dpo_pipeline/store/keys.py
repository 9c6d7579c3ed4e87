"""Cache keys: everything a stage's result depends on, and nothing else.

A key is the digest of named parts (inputs, settings, code, package versions). The parts are
kept in the artifact's manifest, so a miss can be explained by comparing two sets of them.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

PACKAGE = "dpo_pipeline"
_PACKAGE_FOLDER = Path(__file__).parents[1]

KeyParts = dict[str, Any]


def settings_of(section: BaseModel) -> dict[str, Any]:
    """Dump the fields of a section that can change a result.

    Fields marked `json_schema_extra={"affects_result": False}` (batch sizes, concurrency,
    where a thing came from once its digest is known) stay out of the key.
    """
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, Mapping) and extra.get("affects_result") is False:
            continue
        value = getattr(section, name)
        kept[name] = (
            settings_of(value)
            if isinstance(value, BaseModel)
            else section.model_dump(mode="json", include={name})[name]
        )
    return kept


def stage_parts(
    stage: str, *, module: str, inputs: Mapping[str, Any], packages: Sequence[str] = ()
) -> KeyParts:
    """Collect the parts of a stage's key.

    Args:
        stage: Name of the stage.
        module: Module of this project whose code, with all it imports from this project,
            makes the result.
        packages: Installed packages whose version matters to the result.
        inputs: What the stage is given: parents' digests and settings, JSON-able.
    """
    return {
        "stage": stage,
        "inputs": dict(inputs),
        "code": code_digests(module),
        "packages": {name: metadata.version(name) for name in packages},
    }


def explain(parts: KeyParts, previous: KeyParts) -> list[str]:
    """Name the parts that differ between a key and the previous one of the same stage."""
    new, old = dict(_leaves(parts)), dict(_leaves(previous))
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            # Module names hold dots themselves: a slash keeps the path readable.
            yield from _leaves(item, f"{prefix}/{name}" if prefix else str(name))
    else:
        yield prefix, value


@cache
def code_digests(module: str) -> dict[str, str]:
    """Digest the source of a module of this project and of all it imports from this project.

    Imports are read from the source, at any depth of nesting and without running it, so
    that lazily imported modules count and heavy packages stay unloaded.

    Returns:
        Module name -> sha256 of its file.
    """
    found: dict[str, str] = {}
    queue = list(_with_parents(module))
    while queue:
        name = queue.pop()
        path = _source(name)
        if name in found or path is None:
            continue
        source = path.read_bytes()
        found[name] = hashlib.sha256(source).hexdigest()
        queue.extend(_imports(name, ast.parse(source), is_package=path.name == "__init__.py"))
    return dict(sorted(found.items()))


def _source(module: str) -> Path | None:
    base = _PACKAGE_FOLDER.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(module: str, tree: ast.AST, is_package: bool) -> Iterator[str]:
    for node in _runtime_nodes(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")[: None if is_package else -1]
                up = up[: len(up) - (node.level - 1)]
                base = ".".join([*up, base]).rstrip(".")
            # `from package import name`: the name may be a module or an attribute.
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] == PACKAGE:
                yield from _with_parents(name)


def _with_parents(module: str) -> Iterator[str]:
    # Importing a.b.c runs a/__init__.py and a/b/__init__.py as well.
    parts = module.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from _runtime_nodes(child)
            continue
        yield node
        yield from _runtime_nodes(node)
