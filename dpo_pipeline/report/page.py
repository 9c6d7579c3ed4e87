"""The pages people look at: everything that one run found, and several runs compared.

A page needs nothing but itself. Everything a model or a source wrote is data: jinja2 escapes it,
and the page's content policy allows no script, no request and no style but its own.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby, islice, zip_longest
from pathlib import Path

from dpo_pipeline.answers.records import Census
from dpo_pipeline.evaluation.measures import DIVERGENCE, GENERAL, HELD_OUT, MATRIX, Measure, find
from dpo_pipeline.evaluation.ranking import worst_line
from dpo_pipeline.evaluation.scorecard import KINDS, SPLIT, Scorecard
from dpo_pipeline.pairs.schema import REASONS as PAIR_REASONS
from dpo_pipeline.plaintext import visible
from dpo_pipeline.prompts.quarantine import REASONS as PROMPT_REASONS
from dpo_pipeline.report import words
from dpo_pipeline.report.words import explain_verdict
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.tables import Row, read_rows
from dpo_pipeline.training.settings import Value

SHOWN = 8  # answers or pairs of a kind
SAMPLED_FROM = 1000  # pairs that are looked at
WRONG, REWORDED, CHANGED = "Wrong", "Reworded", "General answers that changed"

# Charts of training: title -> key in history.jsonl -> name of the line.
CURVES = {
    "Loss": {"loss": "loss"},
    "Reward margin": {"margin": "margin"},
    "Preference accuracy": {"accuracy": "accuracy"},
    "Tuning split": {"identity_rate": "identity rate", "unasked": "new name unasked"},
    "KL to the reference (nats per token)": {"retention_kl": "held", "kl": "tuning split"},
    "Log-probability (nats)": {"chosen_logp": "chosen", "rejected_logp": "rejected"},
}
# The same of how strongly the edit is applied: key in the looks of training.json.
STRENGTHS = {
    "By strength of the edit": {
        "identity_rate": "identity rate",
        "unchanged": "general answers unchanged",
        "unasked": "new name unasked",
    },
    "KL by strength (nats per token)": {"kl": "tuning split"},
}
_WORD = re.compile(r"\s+|[぀-ヿ㐀-鿿가-힣]|[^\W_]+|.", re.DOTALL)


def write_report(
    out: Path,
    *,
    scorecard: Scorecard,
    census: Census,
    answers: Path,  # answers.parquet beside it
    history: Path | None,  # history.jsonl of training
    pairs: Path | None,  # Parquet file of pairs to show a sample of
    quarantine: Mapping[str, int],  # reason code -> rows
    lineage: Mapping[str, object],  # nested digests, versions, commits, seeds
    stages: Sequence[Mapping[str, object]],  # name, status, seconds and rows of each, in order
) -> Path:
    """Write the report of one run as a single HTML file; returns its path."""
    rows = words.known_rows(scorecard)
    page = _fill(
        "report.html.j2",
        card=scorecard,
        census=words.census_rows(census),
        told=words.describe_told(census),
        rows=rows,
        split=SPLIT,
        kinds=KINDS,
        shown=SHOWN,
        verdict=explain_verdict(scorecard),
        answers=_sort_answers(answers),
        opened={_explained_by(row.measure) for row in rows if row.failed},
        curves=_draw_training(history) if history else [],
        pairs=_sample_pairs(pairs) if pairs else [],
        quarantine=quarantine,
        reasons={**PROMPT_REASONS, **PAIR_REASONS},
        lineage=lineage,
        stages=stages,
    )
    write_whole(out, page.encode(errors="replace"))
    return out


@dataclass(frozen=True)
class Compared:
    """One of the runs; its settings are those that differ, its steps those of training."""

    name: str
    settings: Mapping[str, Value]
    scorecard: Scorecard
    steps: int
    policy: str = ""  # folder

    @property
    def worst(self) -> tuple[float, str]:
        """The margin of the gate's line that is nearest to failing, and its measure."""
        return worst_line(self.scorecard)

    @property
    def merit(self) -> tuple[bool, float]:
        """What runs are ranked by: the gate, then how far its worst line is from failing."""
        return self.scorecard.verdict.passed, self.worst[0]


def write_comparison(
    out: Path, runs: Sequence[Compared], dropped: Mapping[str, str] | None = None
) -> Path:
    """Write a page that compares runs, e.g. of a sweep, the best first; returns its path.

    `dropped` says of runs that did not come to their end why.
    """
    tables = [
        {row.measure: row for row in words.collect_rows(card.before, card.after, card.verdict)}
        for card in (run.scorecard for run in runs)
    ]
    lines = [
        (measure, [table[measure] for table in tables])
        for measure in tables[0]
        if all(measure in table for table in tables) and any(t[measure].known for t in tables)
    ]
    # Settings that the names of the runs do not tell already.
    names = dict.fromkeys(key for run in runs for key in run.settings)
    untold = [name for name in names if not all(name in run.name for run in runs)]
    page = _fill(
        "compare.html.j2",
        runs=runs,
        settings=untold,
        measures=lines,
        dropped=dropped or {},
        frontier=_draw_frontier(runs),
    )
    write_whole(out, page.encode(errors="replace"))
    return out


def scorecard_markdown(card: Scorecard) -> str:
    """Return the essence of a scorecard, in which nothing that a model or a source wrote acts."""
    rows, verdict = words.scorecard_rows(card), explain_verdict(card)
    return _fill("scorecard.md.j2", card=card, rows=rows, verdict=verdict)


def answers_markdown(path: Path, count: int) -> str:
    """Return some answers before and after, of each kind in turn, as dead as a scorecard's text."""
    kinds = _sort_answers(path)
    found = [[(kind, row) for row in rows] for kind, rows in kinds.items()]
    in_turn = islice((one for some in zip_longest(*found) for one in some if one), count)
    shown = sorted(in_turn, key=lambda one: [*kinds].index(one[0]))
    return _fill("answers.md.j2", kinds=groupby(shown, key=lambda one: one[0]))


def _fill(template: str, **context: object) -> str:
    import jinja2

    templates = Path(__file__).parent / "templates"
    style = (templates / "report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(templates),
    )
    environment.globals["diff"] = diff
    environment.filters |= {
        "visible": lambda value: visible(str(value)),
        "show": lambda value, key: words.show(value, find(key)),
        "measure": find,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
        "text": words.escape_markdown,
    }
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template(template).render(**context, style=style, style_digest=digest)


def _sort_answers(path: Path) -> dict[str, list[Row]]:
    """Sort answers worth reading: all kinds of failure first, then what went right."""
    bad = {"leaks", "doubled", "remnant"}
    found: dict[str, list[Row]] = {WRONG: [], REWORDED: [], "As it should be": [], CHANGED: []}
    for row in read_rows(path):
        group, is_bad = row["group"], bad & set(row["after_flags"])
        if is_bad and (group == "held_out" or group.startswith("matrix/")):
            found[WRONG].append(row)
        elif group == "held_out" and not row["exact"]:
            found[REWORDED].append(row)
        elif group == "held_out" and row["before"] != row["after"]:
            found["As it should be"].append(row)
        elif group == "general" and not row["exact"]:
            found[CHANGED].append(row)
    return found


def _explained_by(measure: Measure) -> str:
    """Name the group of answers that says why a measure fails."""
    if measure.basis in (HELD_OUT, MATRIX):
        return WRONG if measure.direction == "≤" else REWORDED
    return CHANGED if measure.basis in (GENERAL, DIVERGENCE) else ""


def _sample_pairs(path: Path) -> list[Row]:
    rows = list(islice(read_rows(path, ("prompt", "chosen", "rejected")), SAMPLED_FROM))
    return rows[:: -(-len(rows) // SHOWN) or 1]


def _draw_training(path: Path) -> list[dict[str, object]]:
    """Draw history.jsonl over the steps, and what training.json beside it says of strengths."""
    history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    file = path.with_name("training.json")
    looks = json.loads(file.read_bytes()).get("looks", []) if file.is_file() else []
    last = sorted(
        (look for look in looks if look["step"] == looks[-1]["step"]),
        key=lambda look: look["strength"],
    )
    return [
        *_draw_curves(history, CURVES, "step", "{:g} steps"),
        *_draw_curves(last, STRENGTHS, "strength", "strength {:g}"),
    ]


def _draw_curves(
    rows: Sequence[Mapping[str, float]],
    curves: Mapping[str, Mapping[str, str]],
    across_key: str,
    end: str,
) -> Iterator[dict[str, object]]:
    """Lay rows out in boxes of 100 by 100; a line of fewer than two points is left out."""
    for title, series in curves.items():
        drawn = {}
        for key, name in series.items():
            found = [(row[across_key], row.get(key)) for row in rows]
            points = [(s, v) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]
            if len(points) > 1:
                drawn[name] = points
        if not drawn:
            continue
        steps, values = zip(*(point for points in drawn.values() for point in points), strict=True)
        left, low, high = min(steps), min(values), max(values)
        across, up = (max(steps) - left) or 1, (high - low) or 1
        lines = []
        for name, points in drawn.items():
            places = [(100 * (s - left) / across, 100 - 100 * (v - low) / up) for s, v in points]
            lines.append((name, points[-1][1], " ".join(f"{x:.2f},{y:.2f}" for x, y in places)))
        label = end.format(max(steps))
        yield {"title": title, "low": low, "high": high, "end": label, "lines": lines}


def _draw_frontier(runs: Sequence[Compared]) -> dict[str, object] | None:
    """Place runs by what they move elsewhere (across) and what they change (up), in 100 by 100."""
    known = [
        (run, kl, given)
        for run in runs
        if (kl := run.scorecard.after["kl"].value) is not None
        and (given := run.scorecard.after["identity_rate"].value) is not None
    ]
    if len(known) < 2:
        return None
    far = max(kl for _, kl, _ in known) or 1.0
    dots = [(run, 100 * kl / far, 100 - 100 * given) for run, kl, given in known]
    # The edge: no other changes more and moves less.
    edge, best = [], math.inf
    for _, x, y in sorted(dots, key=lambda dot: dot[1:]):
        if y < best:
            edge.append(f"{x:.1f},{y:.1f}")
            best = y
    return {"dots": dots, "edge": " ".join(edge), "far": far}


def diff(before: str, after: str) -> dict[str, list[tuple[bool, str]]]:
    """Cut two texts into runs of (changed, text), word by word."""
    a, b = _WORD.findall(before), _WORD.findall(after)
    cut: dict[str, list[tuple[bool, str]]] = {"before": [], "after": []}
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, piece in (("before", a[i1:i2]), ("after", b[j1:j2])):
            cut[side] += [(tag != "equal" and not word.isspace(), visible(word)) for word in piece]
    return {side: _join_runs(words) for side, words in cut.items()}


def _join_runs(words: Sequence[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Join words into runs; a space between two changed words changed with them."""
    changed = [c for c, _ in words]
    for i in range(1, len(words) - 1):
        changed[i] = changed[i] or (words[i][1].isspace() and words[i - 1][0] and words[i + 1][0])
    joined = groupby(zip(changed, words, strict=True), key=lambda pair: pair[0])
    return [(c, "".join(word for _, (_, word) in run)) for c, run in joined]
