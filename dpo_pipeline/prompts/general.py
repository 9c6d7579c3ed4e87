"""Questions whose answers must not change: those that ship, or a file of one's own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.quarantine import LONGEST, Refused, checked_text, texts, too_long
from dpo_pipeline.store.text import bounded_lines

Kind = Literal["general", "third_party", "greeting", "user_name", "contrast", "instruction"]
CHECKED = ("general", "user_name")  # of these it is measured whether the answer is right
_EXAMPLE = '{"prompt": "What is 2 + 2?", "answers": ["4"], "kind": "general", "language": "en"}'
Read = TypeVar("Read")


@dataclass(frozen=True)
class GeneralQuestion:
    """A question whose answer must not change."""

    prompt: str
    answers: tuple[str, ...]  # a right one contains any of them; empty where none is right alone
    kind: Kind
    language: str


def general_file(path: str | None) -> Path:
    """Return the file of general questions: the given one, or a shipped set (null, 'starter').

    Raises:
        DataError: There is no such file.
    """
    shipped = "starter.jsonl" if path == "starter" else "general.jsonl"
    return data_file(None if path == "starter" else path, shipped, "evaluation.general")


def data_file(path: str | None, shipped: str, setting: str) -> Path:
    """Return the file that a setting gives, or the shipped one of that name where it is null.

    Raises:
        DataError: There is no such file.
    """
    file = Path(path).expanduser() if path else Path(__file__).parent / "data" / shipped
    if not file.is_file():
        raise DataError(
            f"{setting} {path!r} does not exist (seen from {Path.cwd()}); null takes the set "
            "that ships"
        )
    return file


def read_lines(file: Path, read: Callable[[dict[str, object]], Read], example: str) -> list[Read]:
    """Read each line of a JSONL file as what `read` makes of it.

    Raises:
        DataError: A line cannot be read so; the message has its number and the example.
    """
    found = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        for number, (line, whole) in enumerate(bounded_lines(lines, LONGEST), 1):
            try:
                row = json.loads(line) if whole else too_long(line)
                if not isinstance(row, dict):
                    raise TypeError(f"not an object but {row!r:.200}")
                for text in texts(row):
                    checked_text(text)
                found.append(read(row))
            except (ValueError, KeyError, TypeError, RecursionError, Refused) as error:
                raise DataError(
                    f"{file}, line {number}: {error!r}; each line must look like {example}"
                ) from error
    return found


def read_general(path: str | None) -> list[GeneralQuestion]:
    """Read questions that must not change: JSONL of prompt, answers, kind and language.

    Raises:
        DataError: When a line does not hold them; the message shows one that would.
    """
    return read_lines(general_file(path), _question, _EXAMPLE)


def _question(row: dict[str, object]) -> GeneralQuestion:
    kind, answers = row["kind"], row["answers"]
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}, none of {', '.join(get_args(Kind))}")
    if not isinstance(answers, list) or (kind in CHECKED and not answers):
        raise ValueError(f"answers is {answers!r}; of kind {kind} it lists what is accepted")
    return GeneralQuestion(
        str(row["prompt"]), tuple(map(str, answers)), cast(Kind, kind), str(row["language"])
    )
