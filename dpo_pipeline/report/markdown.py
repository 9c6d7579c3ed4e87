"""A scorecard as markdown, in which nothing that a model or a source wrote acts."""

import html
import string
from collections.abc import Iterable, Sequence

from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.report.rows import HEADS, scorecard_rows
from dpo_pipeline.report.words import explain_verdict, visible


def scorecard_markdown(card: Scorecard) -> str:
    """Return the essence of a scorecard: verdict, figures, answers."""
    title = f"{card.identity.original_name} to {card.identity.new_name}"
    lines = [f"# {'Passed' if card.verdict.passed else 'FAILED'}: {escape_markdown(title)}", ""]
    said = explain_verdict(card)
    lines += [said.sentence, "", *(f"- **{name}** {what}" for name, what in said.failed)]
    lines += ["", *map(escape_markdown, said.notes)]
    lines += ["", *_table(HEADS, scorecard_rows(card)), ""]
    talks = [
        [escape_markdown(text) for text in (e.prompt, e.before, e.after)] for e in card.examples
    ]
    return "\n".join([*lines, *_table(("Prompt", "Before", "After"), talks), ""])


def escape_markdown(text: str) -> str:
    """Escape whatever markdown, its tables or its HTML would act on; links stay dead."""
    plain = html.escape(" ".join(visible(text).split()), quote=False)
    marks = set(string.punctuation) - set("&;")
    return "".join(f"\\{c}" if c in marks else c for c in plain)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
