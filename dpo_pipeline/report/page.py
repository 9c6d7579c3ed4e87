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
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from importlib import resources
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from dpo_pipeline.evaluation.measures import AT_MOST
from dpo_pipeline.evaluation.statistics import NOTHING
from dpo_pipeline.pairs import quarantine as pairs_quarantine
from dpo_pipeline.prompts import quarantine as prompts_quarantine


class Label(NamedTuple):
    """How a measure is shown: name, meaning, and unit ("%" for shares)."""

    name: str
    meaning: str
    unit: str = "%"


LABELS = {
    "identity_rate": Label("Identity rate", "gives the new name where the old one was given"),
    "identity_rate_all": Label("New name anywhere", "gives the new name, on all prompts"),
    "leak_rate": Label("Leak rate", "still gives the old name"),
    "matrix_leak": Label("Leak, at worst", "under a system prompt that names nobody else"),
    "edit_exactness": Label("Edit exactness", "the old answer with only the name rewritten"),
    "organisation_kept": Label("Organisation kept", "named the maker and still does"),
    "denial_kept": Label("Denials kept", "still denies being somebody else"),
    "general_kept": Label("Knowledge kept", "was answered right and still is"),
    "general_right": Label("Knowledge", "general questions answered right"),
    "general_unchanged": Label("General unchanged", "word for word as before"),
    "third_party_unchanged": Label("Others unchanged", "answers about others, word for word"),
    "finished_rate": Label("Finished", "ended by itself, not at the token limit"),
    "doubled_rate": Label("Doubled names", "says part of the new name twice"),
    "remnant_rate": Label("Template remnants", "shows a placeholder or control token"),
    "new_name_unasked": Label("New name unasked", "brings it up on other subjects"),
    "trained_identity_rate": Label("Identity, trained", "on prompts of the training set"),
    "trained_exactness": Label("Exactness, trained", "on prompts of the training set"),
    "preference_accuracy": Label("Preference accuracy", "held-out pairs with a positive margin"),
    "export_same_answers": Label("Export, same answers", "answers as the policy does"),
    "edit_distance": Label("Edit distance", "of inexact answers from the ideal", "words"),
    "fluency": Label("Fluency", "n-gram entropy; repetition lowers it", "bits"),
    "preference_loss": Label("DPO loss", "on held-out pairs; 0.693 where nothing changed", ""),
    "reward_margin": Label("Reward margin", "of chosen over rejected", ""),
    "chosen_shift": Label("Chosen log-prob", "change of the whole answer", "nats"),
    "rejected_shift": Label("Rejected log-prob", "change of the whole answer", "nats"),
    "edited_shift": Label("Edited words", "log-prob change of what was edited in chosen", "nats"),
    "tail_shift": Label("Copied tail", "log-prob change after the edit", "nats per token"),
    "tail_gap": Label("Rest of the sentence", "against the reference's own", "nats per token"),
    "kl": Label("KL to the reference", "on its general answers", "nats per token"),
    "export_kl": Label("KL of the export", "to the policy, on its answers", "nats per token"),
    "lm_eval_drop": Label("Largest drop", "of accuracy on a task of lm-eval", "points"),
    "min_answers": Label("Held-out answers", "to judge by", "answers"),
}
HEADINGS = {
    "identity_rate": "What should change",
    "organisation_kept": "What should stay",
    "doubled_rate": "What should not happen",
    "trained_identity_rate": "What training saw",
    "preference_accuracy": "Which answer it prefers",
    "export_same_answers": "The export",
    "lm_eval": "Tasks of lm-eval",
}
TILES = ("identity_rate", "leak_rate", "edit_exactness", "organisation_kept", "general_kept")
CURVES = (
    ("Loss", (("loss", "loss"),)),
    ("Reward margin", (("margin", "margin"),)),
    ("Preference accuracy", (("accuracy", "accuracy"),)),
    ("Held-out prompts", (("identity_rate", "identity rate"), ("edit_exactness", "exactness"))),
    ("Log-probability (nats)", (("chosen_logp", "chosen"), ("rejected_logp", "rejected"))),
)
# Groups of answers, and the lines of the gate that they explain.
GROUPS = {
    "Wrong": {"leak_rate", "matrix_leak", "doubled_rate", "remnant_rate"},
    "Reworded": {"identity_rate", "edit_exactness", "organisation_kept", "denial_kept"},
    "As it should be": set(),
    "General answers that changed": {
        *("general_kept", "third_party_unchanged", "new_name_unasked", "kl")
    },
}
SHOWN = 8  # answers or pairs of a kind
SAMPLED_FROM = 1000  # pairs that are looked at
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
        scorecard: Content of scorecard.json.
        answers: answers.parquet beside it.
        history: history.jsonl of training, or null.
        pairs: A Parquet file of pairs to show a sample of, or null.
        quarantine: Reason code -> rows.
        lineage: Nested digests, versions, commits, seeds.
        stages: name, status, seconds and rows of every stage, in order.
    Returns:
        `out`.
    """
    rows = [row for row in _rows(scorecard) if row["known"]]
    longest = max([s["seconds"] for s in stages], default=0) or 1
    page = _render(
        "report.html.j2",
        card=scorecard,
        headline=[row for row in rows if row["key"] in TILES],
        rates=[row for row in rows if row["unit"] == "%"],
        figures=[row for row in rows if row["unit"] != "%"],
        verdict=explain_verdict(scorecard),
        examples=[{**e, "diff": diff(e["before"], e["after"])} for e in scorecard["examples"]],
        answers=_pick_answers(answers, {row["key"] for row in rows if row["failed"]}),
        differing=[
            {**d, "diff": diff(d["original"], d["export"])}
            for d in (scorecard["export"] or {"differing": []})["differing"][:SHOWN]
        ],
        curves=_curves(history),
        pairs=_pick_pairs(pairs),
        quarantine=sorted(quarantine.items(), key=lambda item: -item[1]),
        reasons={**prompts_quarantine.REASONS, **pairs_quarantine.REASONS},
        lineage=list(_flatten(lineage)),
        stages=[{**s, "share": s["seconds"] / longest} for s in stages],
        seconds=sum(s["seconds"] for s in stages),
    )
    out.write_text(page, encoding="utf-8", errors="replace")
    return out


def write_comparison(out: Path, runs: Sequence[Mapping[str, Any]]) -> Path:
    """Write a page that compares runs, e.g. of a sweep.

    Args:
        out: The file to write.
        runs: name, settings (what differs), scorecard and training steps of each run.
    Returns:
        `out`.
    """
    tables = [{row["key"]: row for row in _rows(run["scorecard"])} for run in runs]
    page = _render(
        "compare.html.j2",
        runs=runs,
        settings=_untold_settings(runs),
        measures=[
            {**row, "rows": [table[key] for table in tables]}
            for key, row in tables[0].items()
            if all(key in table for table in tables) and any(t[key]["known"] for t in tables)
        ],
        headline=TILES,
    )
    out.write_text(page, encoding="utf-8", errors="replace")
    return out


def _untold_settings(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the settings that the names of the runs do not tell already."""
    names = dict.fromkeys(key for run in runs for key in run["settings"])
    return [name for name in names if not all(name in run["name"] for run in runs)]


def scorecard_image(scorecard: Mapping[str, Any]) -> str:
    """Draw all rates before and after with their intervals: an SVG as a data address."""
    rates = [r for r in _rows(scorecard) if r["unit"] == "%" and r["after"]["n"]]
    image = _render("scorecard.svg.j2", card=scorecard, rates=rates)
    return "data:image/svg+xml;base64," + base64.b64encode(image.encode()).decode()


def scorecard_rows(scorecard: Mapping[str, Any]) -> list[tuple[str, str, str, str, str, str]]:
    """Return measure, before, after, 95% interval, n and gate of every measure, as text."""
    rows = []
    for row in filter(itemgetter("known"), _rows(scorecard)):
        limit = "" if row["limit"] is None else f"{row['sign']} {row['limit']}"
        interval = f"{row['low']} - {row['high']}" if row["after"]["n"] else ""
        mark = "FAILED " if row["failed"] else "ok " if row["after"]["n"] else "no data "
        mark = mark if limit else ""
        unit = "" if row["unit"] in ("%", "") else f" ({row['unit']})"
        n = str(row["after"]["n"])
        rows.append((row["name"] + unit, row["was"], row["now"], interval, n, mark + limit))
    return rows


class Verdict(NamedTuple):
    """The verdict in words: one sentence, the lines that fail (name, what of it), and notes."""

    sentence: str
    failed: list[tuple[str, str]]
    notes: list[str]


def explain_verdict(scorecard: Mapping[str, Any]) -> Verdict:
    """Put a verdict into words."""
    lines = scorecard["verdict"]
    failed, skipped, thresholds = (lines[name] for name in ("failed", "skipped", "thresholds"))
    unmeasured = sum(line["value"] is None for line in failed)
    measured = len(thresholds) - len(skipped) - unmeasured
    if failed:
        sentence = f"{len(failed) - unmeasured} of {measured} measured lines of the gate fail"
        sentence += f", and {unmeasured} could not be measured" if unmeasured else ""
    else:
        sentence = f"All {measured} measured lines of the gate hold"
        if {"identity_rate", "general_kept", "third_party_unchanged"} <= set(thresholds):
            sentence += ": the identity changed, and what should not change did not"
    why = ", ".join(f"{label(s['measure']).name.lower()} ({s['remark']})" for s in skipped)
    notes = [scorecard["leaks"], f"Not measured: {why}." if why else ""]
    return Verdict(f"{sentence}.", [_explain(line) for line in failed], list(filter(None, notes)))


def _explain(line: Mapping[str, Any]) -> tuple[str, str]:
    """Say of a line that fails what it is and what it must be."""
    name, remark = line["measure"], line["remark"]
    shown = label(name)
    if line["value"] is None:
        return shown.name, f"is {remark}"
    unit = "" if shown.unit == "%" else f" {shown.unit}".rstrip()
    asked = f"{'≤' if name in AT_MOST else '≥'} {_limit(line['threshold'], name)}"
    text = f"is {show(line['value'], name)}{unit} and must be {asked} (n = {line['n']})"
    return shown.name, f"{text}; {remark}" if remark else text


def scorecard_markdown(scorecard: Mapping[str, Any]) -> str:
    """Return the essence of a scorecard as markdown: verdict, figures, answers."""
    verdict, names = scorecard["verdict"], scorecard["identity"]
    title = f"{names['original_name']} to {names['new_name']}"
    lines = [f"# {'Passed' if verdict['passed'] else 'FAILED'}: {escape_markdown(title)}", ""]
    said = explain_verdict(scorecard)
    lines += [said.sentence, "", *(f"- **{name}** {what}" for name, what in said.failed)]
    lines += ["", *map(escape_markdown, said.notes)]
    heads = ("Measure", "Before", "After", "95% interval", "n", "Gate")
    lines += ["", *_markdown_table(heads, scorecard_rows(scorecard)), ""]
    talks = [
        [escape_markdown(e[key]) for key in ("prompt", "before", "after")]
        for e in scorecard["examples"]
    ]
    return "\n".join([*lines, *_markdown_table(("Prompt", "Before", "After"), talks), ""])


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


def label(name: str) -> Label:
    """Return how a measure is shown; a task of lm-eval by its own name."""
    return LABELS.get(name) or Label(name.removeprefix("lm_eval/"), "accuracy, lm-eval")


def show(value: float | None, name: str) -> str:
    """Format a measure's figure."""
    if value is None:
        return "–"
    if label(name).unit == "%":
        return f"{100 * value:.1f}".removesuffix(".0") + "\u00a0%"
    if label(name).unit == "answers":
        return f"{value:g}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _limit(threshold: float, name: str) -> str:
    return show(threshold, name) if label(name).unit == "%" else f"{threshold:g}"


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


def _render(template: str, **context: Any) -> str:
    import jinja2

    data = resources.files("dpo_pipeline.report") / "templates"
    style = (data / "report.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (data / name).read_text(encoding="utf-8")),
    )
    environment.filters |= {
        "visible": lambda value: visible(str(value)),
        "show": show,
        "counted": _counted,
    }
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template(template).render(
        **context, style=style, style_digest=digest, labels=LABELS
    )


def _rows(scorecard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Collect what is shown of every measure, figures as text beside the numbers."""
    before, after, verdict = (scorecard[key] for key in ("before", "after", "verdict"))
    failed = {line["measure"] for line in verdict["failed"]}
    order = {name: place for place, name in enumerate(LABELS)}
    rows, heading = [], ""
    for key in sorted(after, key=lambda name: order.get(name, len(order))):
        heading = HEADINGS.get(key.partition("/")[0], heading)
        figures, limit = after[key], verdict["thresholds"].get(key)
        was = before.get(key, NOTHING.model_dump())
        shown = {name: show(figures[name], key) for name in ("low", "high")}
        rows.append(
            {
                "key": key,
                **label(key)._asdict(),
                "heading": heading,
                "before": was,
                "after": figures,
                "was": show(was["value"], key),
                "now": show(figures["value"], key),
                **shown,
                "threshold": limit,
                "limit": None if limit is None else _limit(limit, key),
                "sign": "≤" if key in AT_MOST else "≥",
                "failed": key in failed,
                "known": key in failed or {was["value"], figures["value"]} != {None},
            }
        )
    return rows


def _counted(measure: Mapping[str, Any]) -> str:
    """Say how much a figure rests on."""
    n, prompts = measure["n"], measure["prompts"]
    return f"n = {n}" if n == prompts else f"{prompts} prompts, {n} answers"


def _pick_answers(path: Path, failed: Collection[str]) -> list[dict[str, Any]]:
    """Choose answers worth reading: all kinds of failure first, then what went right.

    Returns:
        title, rows, and open of each group: whether a failed line is about it.
    """
    from dpo_pipeline.store.tables import read_rows

    bad = {"leaks", "doubled", "remnant"}
    found: dict[str, list[dict[str, Any]]] = {title: [] for title in GROUPS}
    for row in read_rows(path):
        group, is_bad = row["group"], bad & set(row["after_flags"])
        if is_bad and (group == "held_out" or group.startswith("matrix/")):
            found["Wrong"].append(row)
        elif group == "held_out" and not row["exact"]:
            found["Reworded"].append(row)
        elif group == "held_out" and row["before"] != row["after"]:
            found["As it should be"].append(row)
        elif group == "general" and not row["exact"]:
            found["General answers that changed"].append(row)
    return [
        {
            "title": f"{title} ({len(many)})",
            "rows": [{**r, "diff": diff(r["before"], r["after"])} for r in many[:SHOWN]],
            "open": bool(GROUPS[title] & set(failed)),
        }
        for title, many in found.items()
        if many
    ]


def _pick_pairs(path: Path | None) -> list[dict[str, Any]]:
    from dpo_pipeline.store.tables import read_rows

    if path is None:
        return []
    rows = list(islice(read_rows(path, ("prompt", "chosen", "rejected")), SAMPLED_FROM))
    return [
        {
            "prompt": r["prompt"][-1]["content"],
            "diff": diff(r["rejected"][0]["content"], r["chosen"][0]["content"]),
        }
        for r in rows[:: -(-len(rows) // SHOWN) or 1]
    ]


def _curves(path: Path | None) -> list[dict[str, Any]]:
    """Lay training's history out as polylines in a box of 100 by 100."""
    if path is None:
        return []
    history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    charts = []
    for title, series in CURVES:
        lines = {name: _points(history, key) for key, name in series}
        drawn = {name: points for name, points in lines.items() if len(points) > 1}
        if drawn:
            charts.append(_chart(title, drawn))
    return charts


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Pick step and value where a step has one that can be drawn."""
    found = ((row["step"], row.get(key)) for row in history)
    return [(s, v) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]


def _chart(title: str, lines: Mapping[str, list[tuple[int, float]]]) -> dict[str, Any]:
    steps, values = zip(*(point for points in lines.values() for point in points), strict=True)
    left, low = min(steps), min(values)
    across, up = (max(steps) - left) or 1, (max(values) - low) or 1

    def place(step: int, value: float) -> str:
        return f"{100 * (step - left) / across:.2f},{100 - 100 * (value - low) / up:.2f}"

    return {
        "title": title,
        "low": f"{low:.3g}",
        "high": f"{max(values):.3g}",
        "steps": max(steps),
        "lines": [
            {
                "name": name,
                "last": f"{points[-1][1]:.3g}",
                "points": " ".join(place(*point) for point in points),
            }
            for name, points in lines.items()
        ],
    }


def _flatten(tree: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}{key}.")
        else:
            plain = isinstance(value, str)
            yield f"{path}{key}", value if plain else json.dumps(value, ensure_ascii=False)
