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
from typing import NoReturn

from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

from dpo_pipeline.plaintext import plain
from flows.settings import Config, find_config, merge, read_yaml, validate
from tasks.runtime import prepare_environment

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
        from_file = read_yaml(find_config(file)) if file else {}
        return validate(model, merge(from_file, source()))
    except (OSError, ValueError) as error:
        hint = f"{prog} --help lists every option; for example: python {prog} {example}"
        parser.exit(2, f"{prog}: {error}\n{hint}\n")
