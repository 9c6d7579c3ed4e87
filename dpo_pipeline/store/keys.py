"""Cache keys: everything a stage's result depends on, and nothing else.

A key is the digest of named parts (inputs, settings, code, package versions). The parts are
kept in the artifact's manifest, so a miss can be explained by comparing two sets of them.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import grimp
from pydantic import BaseModel, JsonValue

import dpo_pipeline
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.settings import Section

KeyParts = dict[str, JsonValue]


def settings_of(section: BaseModel) -> dict[str, JsonValue]:
    """Dump the fields of a section that can change a result.

    Fields typed `NoEffect[...]` (batch sizes, concurrency, where a thing came from once its
    digest is known), and those that others switch off (`Section.idle`), stay out of the key.
    """
    idle = section.idle() if isinstance(section, Section) else ()
    plain: dict[str, JsonValue] = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if name in idle or (isinstance(extra, Mapping) and extra.get("affects_result") is False):
            del plain[name]
        elif isinstance(value := getattr(section, name), BaseModel):
            plain[name] = settings_of(value)
    return plain


def stage_parts(
    stage: str,
    *,
    modules: Collection[str],
    inputs: Mapping[str, JsonValue],
    body: str = "",
    packages: Collection[str] = (),
) -> KeyParts:
    """Collect the parts of a stage's key.

    Args:
        stage: Name of the stage.
        modules: Modules of the library whose code, with all they import from it, makes the
            result.
        inputs: What the stage is given: parents' digests, settings, plain values.
        body: Source of the stage itself, which says what it hands to these modules.
        packages: Installed packages whose version matters to the result.
    """
    return {
        "stage": stage,
        "inputs": dict(inputs),
        "body": digest_of(code_of(body)),
        "code": dict(code_digests(frozenset(modules))),
        "packages": {name: metadata.version(name) for name in sorted(packages)},
    }


def explain(parts: KeyParts, previous: KeyParts) -> list[str]:
    """Name the parts that differ between a key and the previous one of the same stage."""
    new, old = dict(_leaves(parts)), dict(_leaves(previous))
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))


def _leaves(value: JsonValue, prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            # Module names hold dots themselves: a slash keeps the path readable.
            yield from _leaves(item, f"{prefix}/{name}" if prefix else str(name))
    else:
        yield prefix, value


@cache
def code_digests(modules: frozenset[str]) -> dict[str, str]:
    """Digest the code of modules of the library and of all that they import from it.

    Imports at any depth of nesting count, and nothing is run, so heavy packages stay
    unloaded. Words do not count: comments, docstrings, help texts of settings.

    Returns:
        Module name -> sha256 of its code.
    Raises:
        ValueError: The library has no such module, or it is a whole room.
    """
    graph = _imports()
    # A whole room says nothing of what is used of it: its __init__ is empty.
    single = {name for name in graph.modules if not graph.find_children(name)}
    if unknown := modules - single:
        raise ValueError(f"no module of the library: {', '.join(sorted(unknown))}")
    found = modules.union(*(graph.find_upstream_modules(module) for module in modules))
    return {name: _module_digest(name) for name in sorted(found)}


@cache
def _imports() -> grimp.ImportGraph:
    return grimp.build_graph(
        dpo_pipeline.__name__, cache_dir=None, exclude_type_checking_imports=True
    )


@cache
def _module_digest(name: str) -> str:
    base = Path(str(dpo_pipeline.__file__)).parent.joinpath(*name.split(".")[1:])
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return digest_of(code_of(path.read_text(encoding="utf-8")))


def code_of(source: str) -> str:
    """Return Python source without its words: comments, docstrings, `description=`; nor layout.

    A docstring is any string that stands as a statement: those under the fields of a section are
    their help texts.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [word for word in node.keywords if word.arg != "description"]
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and any(map(_is_docstring, value)):
                value[:] = [part for part in value if not _is_docstring(part)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_docstring(part: object) -> bool:
    constant = part.value if isinstance(part, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)
