"""What a run is asked for: a YAML file, then single values over it, checked before anything heavy.

The command line and a deployment's parameters come to the same: `read` puts them together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, Field, JsonValue, ValidationError

from dpo_pipeline.answers.settings import ADDRESS
from dpo_pipeline.errors import SettingsError
from dpo_pipeline.store.strict_yaml import load_strictly

Config = TypeVar("Config", bound=BaseModel)

# A parameter for what has none of its own: options of the command line by their names, such as
# {"train.epochs": 2}. By the pattern Prefect's server refuses what would else lie in its database.
Settings = Annotated[
    dict[str, JsonValue],
    Field(
        json_schema_extra={
            "propertyNames": {"pattern": r"^[a-z_-]+(\.[a-z0-9_-]+)+$"},
            "patternProperties": {r"base.url$": {"pattern": ADDRESS}},
        }
    ),
]

_PROJECT = Path(__file__).parent.parent
# Settings that may name a local file or folder, and what can be nothing else.
_PATHS = (
    *(("model", "name"), ("reference", "name"), ("policy", "name"), ("export", "name")),
    *(("prompts", "source"), ("prompts", "retention"), ("evaluation", "general")),
    ("train", "accelerate"),
)
# A block's name may be the token itself, and an address may hold a password.
_MAY_BE_SECRET = ("token_block", "base_url")


def read(
    model: type[Config],
    config: str,
    settings: Settings | None,
    parameters: Mapping[str, object],
) -> Config:
    """Put together what a run is asked for.

    Args:
        model: The configuration of the flow.
        config: A YAML file, looked up in the working directory, then where the project lies;
            empty: none.
        settings: Dotted name -> value, over the file.
        parameters: The same of the parameters of the flow itself, over both; null or empty: none.

    Raises:
        SettingsError: A file or a setting does not exist, or a value is out of range.
    """
    merged: dict[str, object] = read_yaml(find_config(config)) if config else {}
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    for name, value in (*(settings or {}).items(), *given.items()):
        merged = merge(merged, _nested(name, value))
    return validate(model, merged)


def validate(model: type[Config], values: Mapping[str, object]) -> Config:
    """Check all values at once.

    Raises:
        SettingsError: Names every wrong one, and what was expected.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_describe(error)) from None


def find_config(file: str | Path) -> Path:
    """Find a YAML file from the working directory, or from where the project lies."""
    path = Path(file).expanduser()
    return path if path.is_file() or not (_PROJECT / path).is_file() else _PROJECT / path


def read_yaml(path: Path) -> dict[str, object]:
    """Read sections of settings; files that they name are looked up beside the YAML file.

    Raises:
        SettingsError: It is no YAML file of sections, or names a file that is not there.
    """
    try:
        loaded = load_strictly(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise SettingsError(
            f"config {path}: no such file; configs/ holds known-good ones"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"config {path}: not YAML: {error}") from None
    if not isinstance(loaded, dict):
        found = type(loaded).__name__
        raise SettingsError(f"config {path}: expected sections such as 'train:', found {found}")
    # A section with all its lines commented out is no section.
    sections = {name: section for name, section in loaded.items() if section is not None}
    if wrong := [name for name, section in sections.items() if not isinstance(section, dict)]:
        raise SettingsError(f"config {path}: {wrong[0]!r} is no section with settings below it")
    generation = sections.get("generation")
    if isinstance(generation, dict) and generation.get("key_host"):
        raise SettingsError(
            f"config {path}: generation.key_host is read from the command line alone: a file that "
            "somebody wrote could send your OPENAI_API_KEY anywhere"
        )
    for section, name in _PATHS:
        if isinstance(values := sections.get(section), dict) and isinstance(values.get(name), str):
            values[name] = _find(f"{section}.{name}", values[name], path.parent)
    return sections


def _find(setting: str, value: str, folder: Path) -> str:
    """Look a file up beside the YAML file that names it, then in the working directory."""
    if value in ("starter", "shipped"):
        return value
    beside = (folder / value).resolve()
    if beside.exists():
        return str(beside)
    from dpo_pipeline.prompts.formats import READERS

    is_file = value.startswith((".", "/", "~")) or Path(value).suffix.lower() in READERS
    if is_file and not Path(value).expanduser().exists():
        raise SettingsError(f"{setting} {value!r} is neither {beside} nor {Path(value).absolute()}")
    return value


def _nested(name: str, value: object) -> dict[str, object]:
    """Turn train.beta: 0.1 into train: {beta: 0.1}; options are spelt with dashes as well."""
    for part in reversed(name.replace("-", "_").split(".")):
        value = {part: value}
    return value  # type: ignore[return-value]


def merge(base: dict[str, object], over: dict[str, object]) -> dict[str, object]:
    """Lay values over others, section by section."""
    merged = base | over
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(old := base.get(name), dict):
            merged[name] = merge(old, value)
    return merged


def _describe(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: no such setting")
        elif item["type"] == "missing":
            lines.append(f"{where}: nothing given; set --{where}... or a section of --config FILE")
        else:
            said = item["msg"].removeprefix("Value error, ")
            # What a whole section fails on names its values itself.
            silent = isinstance(item["input"], dict) or item["loc"][-1] in _MAY_BE_SECRET
            value = "" if silent else f", got {item['input']!r}"
            lines.append(": ".join(filter(None, (where, said + value))))
    return "\n  ".join(["wrong configuration", *lines])
