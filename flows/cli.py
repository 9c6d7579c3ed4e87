"""The command line of the flows: a YAML file, then dotted overrides, checked before anything heavy.

Every option, its help text and its default come from the pydantic model of the flow.
"""

import argparse
import ast
import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from dpo_pipeline.plaintext import plain
from tasks.runtime import prepare_environment

Config = TypeVar("Config", bound=BaseModel)

# Settings that may name a local file or folder, and what can be nothing else.
_PATHS = (
    *(("model", "name"), ("reference", "name"), ("policy", "name"), ("export", "name")),
    *(("prompts", "source"), ("evaluation", "general")),
)
# A block's name may be the token itself, and an address may hold a password.
_MAY_BE_SECRET = ("token_block", "base_url")
_FILE = re.compile(r"[./~]|.*\.(jsonl?|ndjson|csv|tsv|parquet|arrow|feather)$", re.IGNORECASE)
_DEFAULT = re.compile(r"(?<= \(default: )(True|False|[\[({].*)(?=\)$)")


def _as_typed(default: re.Match[str]) -> str:
    value = ast.literal_eval(default[0])
    if isinstance(value, bool):
        return "on" if value else "off"
    return json.dumps(value, ensure_ascii=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        options = [o for action in self._actions for o in action.option_strings]
        if unknown and message.startswith("unrecognized"):
            name = unknown[0].split("=")[0]
            near = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
            message = f"{name}: no such option" + (f"; near: {', '.join(near)}" if near else "")
            if not name.startswith("-"):
                message += "; a switch takes no value: --section.switch or --no-section.switch"
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help lists every option\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process; a secret that was typed somewhere is not repeated."""
        super().exit(status, plain(message) if message else None)

    def format_help(self) -> str:
        """Show lists, maps and switches the way they are typed."""
        for action in self._actions:
            if "[" in str(action.metavar):  # tuple[str,...]
                action.metavar = "JSON"
            action.help = _DEFAULT.sub(_as_typed, action.help or "").replace("ifdef: ", "")
        return super().format_help()


def start(name: str, model: type[Config], **words: str) -> Config | None:
    """Read the command line where a flow's file runs as a script, and set the process up.

    A flow calls it with its `__name__` before it imports prefect, so that a wrong option ends the
    process before prefect or torch load. `words` are the description and the example of `parse`.

    Returns:
        The configuration; null where the flow is imported.
    """
    script = name == "__main__"
    prog = f"flows/{Path(sys.argv[0]).name}"
    config = parse(model, sys.argv[1:], prog=prog, **words) if script else None
    prepare_environment(script=script)
    return config


def parse(
    model: type[Config], argv: Sequence[str], *, prog: str, description: str, example: str
) -> Config:
    """Build a flow's configuration from `--config FILE` and dotted overrides.

    Every field of the schema becomes an option; the example is the options of a run that works.
    A wrong option, value or file ends the process with status 2 and says what was expected.
    """
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--section.option VALUE ...]",
        description=description,
        epilog=f"example: python {prog} {example}",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="YAML file, see configs/")
    # pydantic-settings wants a settings class; the options are the model's own fields.
    settings = type("Options", (BaseSettings, model), {"model_config": SettingsConfigDict()})
    try:
        source: CliSettingsSource[_Parser] = CliSettingsSource(
            settings,
            root_parser=parser,
            cli_parse_args=list(argv),
            cli_kebab_case=True,
            cli_avoid_json=True,
            cli_hide_none_type=True,
            cli_implicit_flags=True,
            cli_parse_none_str="null",
        )
        file = parser.parse_known_args(argv)[0].config
        from_file = _read_yaml(file) if file else {}
        return model.model_validate(_merge(from_file, source()))
    except (OSError, ValueError) as error:
        text = _describe(error) if isinstance(error, ValidationError) else str(error)
        hint = f"{prog} --help lists every option; for example: python {prog} {example}"
        parser.exit(2, f"{prog}: {text}\n{hint}\n")


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"--config {path}: no such file; configs/ holds known-good ones") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: not YAML: {error}") from None
    if not isinstance(loaded, dict):
        found = type(loaded).__name__
        raise ValueError(f"--config {path}: expected sections such as 'train:', found {found}")
    # A section with all its lines commented out is no section.
    sections = {name: section for name, section in loaded.items() if section is not None}
    generation = sections.get("generation")
    if isinstance(generation, dict) and generation.get("key_host"):
        raise ValueError(
            f"--config {path}: generation.key_host is read from the command line alone: a file "
            "that somebody wrote could send your OPENAI_API_KEY anywhere"
        )
    for section, name in _PATHS:
        if isinstance(values := sections.get(section), dict) and isinstance(values.get(name), str):
            values[name] = _find(f"{section}.{name}", values[name], path.parent)
    return sections


def _find(setting: str, value: str, folder: Path) -> str:
    """Look a file up beside the YAML file that names it, then in the working directory."""
    beside = (folder / value).resolve()
    if value not in ("starter", "shipped") and beside.exists():
        return str(beside)
    if _FILE.match(value) and not Path(value).expanduser().exists():
        raise ValueError(f"{setting} {value!r} is neither {beside} nor {Path(value).absolute()}")
    return value


def _merge(base: dict[str, object], over: dict[str, object]) -> dict[str, object]:
    merged = base | over
    for name, value in over.items():
        if isinstance(value, dict) and isinstance(old := base.get(name), dict):
            merged[name] = _merge(old, value)
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
