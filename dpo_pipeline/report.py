"""The report people look at: one page that needs nothing but itself, and short forms of it.

Everything a model or a source wrote is data: jinja2 escapes it, the page's content policy
allows no script, no request and no style but its own, and markdown gets every mark escaped.
"""

import base64
import hashlib
import html
import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from dpo_pipeline.measures import AT_MOST


class Label(NamedTuple):
    """How a measure is shown: name, meaning, and unit ("%" for shares)."""

    name: str
    meaning: str
    unit: str = "%"


LABELS = {
    "identity_rate": Label("Identity rate", "gives the new name where the old one was given"),
    "identity_rate_all": Label("New name, all prompts", "gives the new name at all"),
    "leak_rate": Label("Leak rate", "still gives the old name"),
    "edit_exactness": Label("Edit exactness", "the old answer with only the name rewritten"),
    "organisation_kept": Label("Organisation kept", "named the maker and still does"),
    "denial_kept": Label("Denials kept", "still denies being somebody else"),
    "general_kept": Label("General answers kept", "was right and still is"),
    "general_right": Label("General answers right", "knows the answer"),
    "general_unchanged": Label("General answers unchanged", "word for word as before"),
    "third_party_unchanged": Label("Answers about others", "word for word as before"),
    "finished_rate": Label("Finished", "ended by itself, not at the token limit"),
    "doubled_rate": Label("Doubled names", "says part of the new name twice"),
    "remnant_rate": Label("Template remnants", "shows a placeholder or control token"),
    "new_name_unasked": Label("New name unasked", "brings it up on other subjects"),
    "trained_identity_rate": Label("Identity rate, trained", "prompts of the training set"),
    "trained_exactness": Label("Edit exactness, trained", "prompts of the training set"),
    "preference_accuracy": Label("Preference accuracy", "held-out pairs with a positive margin"),
    "edit_distance": Label("Edit distance", "from the ideal answer", "words"),
    "fluency": Label("Fluency", "n-gram entropy; repetition lowers it", "bits"),
    "preference_loss": Label("DPO loss", "on held-out pairs; 0.693 where nothing changed", ""),
    "reward_margin": Label("Reward margin", "of chosen over rejected", ""),
    "chosen_shift": Label("Chosen log-prob", "change of the whole answer", "nats"),
    "rejected_shift": Label("Rejected log-prob", "change of the whole answer", "nats"),
    "edited_shift": Label("Edited words", "log-prob change of what was edited in chosen", "nats"),
    "tail_shift": Label("Copied tail", "log-prob change after the edit", "nats per token"),
    "kl": Label("KL to the reference", "on its general answers", "nats per token"),
}
HEADINGS = {
    "identity_rate": "What should change",
    "organisation_kept": "What should stay",
    "doubled_rate": "What should not happen",
    "trained_identity_rate": "What training saw",
}
TILES = ("identity_rate", "leak_rate", "edit_exactness", "organisation_kept", "general_kept")
CURVES = (
    ("Loss", (("loss", "loss"),)),
    ("Reward margin", (("margin", "margin"),)),
    ("Preference accuracy", (("accuracy", "accuracy"),)),
    ("Log-probability (nats)", (("chosen_logp", "chosen"), ("rejected_logp", "rejected"))),
)
_WORD = re.compile(r"\s+|[぀-ヿ㐀-鿿가-힣]|[^\W_]+|.", re.DOTALL)
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")


def write_report(
    out: Path,
    *,
    scorecard: Mapping[str, Any],
    answers: Path,
    history: Path | None,
    pairs: Path | None,
    quarantine: Mapping[str, int],
    lineage: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the report of one run as a single HTML file.

    Args:
        out: The file to write.
        scorecard: What `evaluate` returned.
        answers: answers.parquet beside it.
        history: history.jsonl of training, or null.
        pairs: A Parquet file of pairs to show a sample of, or null.
        quarantine: Reason code -> rows.
        lineage: Nested digests, versions, commits, seeds.
        stages: name, status, seconds and rows of every stage, in order.
    Returns:
        `out`.
    """
    longest = max([s["seconds"] for s in stages], default=0) or 1
    return _render(
        "report.html.j2",
        out,
        card=scorecard,
        headings=HEADINGS,
        headline=[_row(scorecard, name) for name in TILES if name in scorecard["after"]],
        rates=[r for r in _rows(scorecard) if r["unit"] == "%"],
        figures=[r for r in _rows(scorecard) if r["unit"] != "%"],
        failed=[
            {
                **f,
                "label": LABELS[f["measure"]],
                "shown": show(f["value"], f["measure"]),
                "limit": show(f["threshold"], f["measure"]),
            }
            for f in scorecard["verdict"]["failed"]
        ],
        examples=[{**e, "diff": diff(e["before"], e["after"])} for e in scorecard["examples"]],
        answers=_pick_answers(answers),
        curves=_curves(history),
        pairs=_pick_pairs(pairs),
        quarantine=sorted(quarantine.items(), key=lambda item: -item[1]),
        reasons=_reasons(),
        lineage=list(_flatten(lineage)),
        stages=[{**s, "share": s["seconds"] / longest} for s in stages],
        seconds=sum(s["seconds"] for s in stages),
    )


def write_comparison(out: Path, runs: Sequence[Mapping[str, Any]]) -> Path:
    """Write a page that compares runs, e.g. of a sweep.

    Args:
        out: The file to write.
        runs: name, settings (what differs), scorecard, seconds of each run.
    Returns:
        `out`.
    """
    names = [n for n in LABELS if any(n in r["scorecard"]["after"] for r in runs)]
    return _render(
        "compare.html.j2",
        out,
        runs=runs,
        settings=list(dict.fromkeys(key for run in runs for key in run["settings"])),
        measures=[
            {"name_key": n, **LABELS[n]._asdict(), "rows": [_row(r["scorecard"], n) for r in runs]}
            for n in names
        ],
        headline=TILES,
    )


def scorecard_rows(scorecard: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """Return measure, before, after, 95% interval, n and gate of every measure, as text."""
    rows = []
    for row in _rows(scorecard):
        limit = "" if row["limit"] is None else f"{row['bound']} {row['limit']}"
        interval = f"{row['low']} - {row['high']}" if row["after"]["n"] else ""
        mark = "" if not limit else "FAILED " if row["failed"] else "ok "
        unit = "" if row["unit"] in ("%", "") else f" ({row['unit']})"
        n = str(row["after"]["n"])
        rows.append((row["name"] + unit, row["was"], row["now"], interval, n, mark + limit))
    return rows


def scorecard_markdown(scorecard: Mapping[str, Any]) -> str:
    """Return the essence of a scorecard as markdown: verdict, figures, answers."""
    verdict, names = scorecard["verdict"], scorecard["identity"]
    title = f"{names['original_name']} to {names['new_name']}"
    lines = [f"# {'Passed' if verdict['passed'] else 'FAILED'}: {escape_markdown(title)}", ""]
    for f in verdict["failed"]:
        name, value = f["measure"], show(f["value"], f["measure"])
        bound = "at most" if name in AT_MOST else "at least"
        limit = show(f["threshold"], name)
        lines.append(
            f"- **{LABELS[name].name}** is {value}, must be {bound} {limit} (n = {f['n']})"
        )
    heads = ("Measure", "Before", "After", "95% interval", "n", "Gate")
    lines += ["", *_markdown_table(heads, scorecard_rows(scorecard)), ""]
    said = [
        [escape_markdown(e[key]) for key in ("prompt", "before", "after")]
        for e in scorecard["examples"]
    ]
    return "\n".join([*lines, *_markdown_table(("Prompt", "Before", "After"), said), ""])


def escape_markdown(text: str) -> str:
    """Escape whatever markdown, its tables or its HTML would act on; links stay dead."""
    plain = html.escape(" ".join(visible(text).split()), quote=False)
    marks = set(string.punctuation) - set("&;")
    return "".join(f"\\{c}" if c in marks else c for c in plain)


def _markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = (heads, ["---"] * len(heads), *rows)
    return [f"| {' | '.join(cells)} |" for cells in table]


def visible(text: str) -> str:
    """Spell out characters that cannot be seen or that turn the writing direction."""
    return _INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def show(value: float | None, name: str) -> str:
    """Format a measure's figure."""
    if value is None:
        return "–"
    if LABELS[name].unit == "%":
        return f"{100 * value:.1f}".removesuffix(".0") + "\u00a0%"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


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


def _render(template: str, out: Path, **context: Any) -> Path:
    import jinja2

    data = resources.files("dpo_pipeline") / "data"
    style = (data / "report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (data / name).read_text(encoding="utf-8")),
    )
    environment.filters |= {"visible": lambda value: visible(str(value)), "show": show}
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = environment.get_template(template).render(
        **context, style=style, style_digest=digest, labels=LABELS
    )
    out.write_text(page, encoding="utf-8", errors="replace")
    return out


def _rows(scorecard: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_row(scorecard, name) for name in LABELS if name in scorecard["after"]]


def _row(scorecard: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Collect what is shown of one measure, figures as text beside the numbers."""
    nothing = {"value": None, "n": 0, "low": None, "high": None}
    before, after = (scorecard[side].get(name, nothing) for side in ("before", "after"))
    limit = scorecard["verdict"].get("thresholds", {}).get(name)
    return {
        "key": name,
        **LABELS[name]._asdict(),
        "before": before,
        "after": after,
        "was": show(before["value"], name),
        "now": show(after["value"], name),
        "low": show(after["low"], name),
        "high": show(after["high"], name),
        "threshold": limit,
        "limit": None if limit is None else show(limit, name),
        "bound": "≤" if name in AT_MOST else "≥",
        "failed": name in {f["measure"] for f in scorecard["verdict"]["failed"]},
    }


def _pick_answers(path: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Choose answers worth reading: all kinds of failure first, then what went right."""
    from dpo_pipeline.tables import read_rows

    rows = [r for r in read_rows(path) if r["group"] in ("held_out", "general")]
    asked = [r for r in rows if r["group"] == "held_out"]
    bad = {"leaks", "doubled", "remnant"}
    groups = {
        "Wrong": [r for r in asked if bad & set(r["after_flags"])],
        "Reworded": [r for r in asked if not r["exact"] and not bad & set(r["after_flags"])],
        "As it should be": [r for r in asked if r["exact"] and r["before"] != r["after"]],
        "General answers that changed": [
            r for r in rows if r["group"] == "general" and not r["exact"]
        ],
    }
    return [
        (f"{title} ({len(many)})", [{**r, "diff": diff(r["before"], r["after"])} for r in many[:8]])
        for title, many in groups.items()
        if many
    ]


def _pick_pairs(path: Path | None) -> list[dict[str, Any]]:
    from dpo_pipeline.tables import read_rows

    rows = list(read_rows(path, ("id", "prompt", "chosen", "rejected"))) if path else []
    return [
        {
            "prompt": r["prompt"][-1]["content"],
            "diff": diff(r["rejected"][0]["content"], r["chosen"][0]["content"]),
        }
        for r in sorted(rows, key=lambda r: str(r["id"]))[:8]
    ]


def _curves(path: Path | None) -> list[dict[str, Any]]:
    """Lay training's history out as polylines in a box of 100 by 100."""
    if path is None:
        return []
    history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    charts = []
    for title, series in CURVES:
        lines = [
            (
                name,
                [
                    (r["step"], r[key])
                    for r in history
                    if isinstance(r.get(key), int | float) and math.isfinite(r[key])
                ],
            )
            for key, name in series
        ]
        points = [p for _, line in lines for p in line]
        if len(points) < 2 * len(series):
            continue
        left, right = points[0][0], points[-1][0]
        values = [v for _, v in points]
        low, high = min(values), max(values)
        across, up = (right - left) or 1, (high - low) or 1
        charts.append(
            {
                "title": title,
                "low": f"{low:.3g}",
                "high": f"{high:.3g}",
                "steps": right,
                "lines": [
                    {
                        "name": name,
                        "last": f"{line[-1][1]:.3g}",
                        "points": " ".join(
                            f"{100 * (s - left) / across:.2f},{100 - 100 * (v - low) / up:.2f}"
                            for s, v in line
                        ),
                    }
                    for name, line in lines
                ],
            }
        )
    return charts


def _reasons() -> Mapping[str, str]:
    from dpo_pipeline.pairs import REASONS

    return REASONS


def _flatten(tree: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}{key}.")
        else:
            plain = isinstance(value, str)
            yield f"{path}{key}", value if plain else json.dumps(value, ensure_ascii=False)
