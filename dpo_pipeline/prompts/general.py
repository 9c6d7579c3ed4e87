"""Questions whose answers must not change: those that ship, or a file of one's own."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dpo_pipeline.errors import DataError


@dataclass(frozen=True)
class GeneralQuestion:
    """A question whose answer must not change."""

    prompt: str
    answers: tuple[str, ...]  # a right one contains any of them
    kind: Literal["general", "third_party"]
    language: str


def general_file(path: str | None) -> Path:
    """Return the file of general questions: the given one, or the shipped set.

    Raises:
        DataError: There is no such file.
    """
    file = Path(path).expanduser() if path else Path(__file__).parent / "data" / "general.jsonl"
    if not file.is_file():
        raise DataError(f"evaluation.general {path!r} does not exist (seen from {Path.cwd()})")
    return file


def read_general(path: str | None) -> list[GeneralQuestion]:
    """Read questions that must not change: JSONL of prompt, answers, kind and language.

    Raises:
        DataError: When a line does not hold them; the message shows one that would.
    """
    file = general_file(path)
    questions = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            if row["kind"] not in ("general", "third_party"):
                raise ValueError(f"kind is {row['kind']!r}, not general or third_party")
            prompt, answers = str(row["prompt"]), tuple(map(str, row["answers"]))
            questions.append(GeneralQuestion(prompt, answers, row["kind"], row["language"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: {error!r}; each line must look like "
                '{"prompt": "What is 2 + 2?", "answers": ["4"], "kind": "general", '
                '"language": "en"}'
            ) from error
    return questions
