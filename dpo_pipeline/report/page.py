"""The report people look at: one page of everything that a run found."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from dpo_pipeline.evaluation.measures import DIVERGENCE, GENERAL, HELD_OUT, MATRIX, Measure
from dpo_pipeline.evaluation.scorecard import SPLIT, Scorecard
from dpo_pipeline.pairs.schema import REASONS as PAIR_REASONS
from dpo_pipeline.prompts.quarantine import REASONS as PROMPT_REASONS
from dpo_pipeline.report.curves import draw_curves
from dpo_pipeline.report.differences import Runs, diff
from dpo_pipeline.report.rendering import render
from dpo_pipeline.report.rows import known_rows
from dpo_pipeline.report.words import explain_verdict
from dpo_pipeline.store.tables import read_rows

Row = dict[str, Any]  # of a Parquet file

SHOWN = 8  # answers or pairs of a kind
SAMPLED_FROM = 1000  # pairs that are looked at


def write_report(
    out: Path,
    *,
    scorecard: Scorecard,
    answers: Path,
    history: Path | None,
    pairs: Path | None,
    quarantine: Mapping[str, int],
    lineage: Mapping[str, object],
    stages: Sequence[Mapping[str, object]],
) -> Path:
    """Write the report of one run as a single HTML file; returns its path.

    Args:
        out: The file to write.
        scorecard: The scorecard.
        answers: answers.parquet beside it.
        history: history.jsonl of training, or null.
        pairs: A Parquet file of pairs to show a sample of, or null.
        quarantine: Reason code -> rows.
        lineage: Nested digests, versions, commits, seeds.
        stages: name, status, seconds and rows of every stage, in order.
    """
    rows = known_rows(scorecard)
    differing = scorecard.export.differing[:SHOWN] if scorecard.export else ()
    return render(
        out,
        "report.html.j2",
        card=scorecard,
        rows=rows,
        split=SPLIT,
        verdict=explain_verdict(scorecard),
        examples=[(e.prompt, diff(e.before, e.after)) for e in scorecard.examples],
        answers=_pick_answers(answers, [row.measure for row in rows if row.failed]),
        differing=[(d.prompt, diff(d.original, d.export)) for d in differing],
        curves=draw_curves(history),
        pairs=_pick_pairs(pairs) if pairs else [],
        quarantine=sorted(quarantine.items(), key=lambda item: -item[1]),
        reasons={**PROMPT_REASONS, **PAIR_REASONS},
        lineage=list(_flatten(lineage)),
        stages=stages,
    )


def _pick_answers(path: Path, failed: Iterable[Measure]) -> list[Row]:
    """Choose answers worth reading: all kinds of failure first, then what went right.

    Returns:
        title, rows, and open of each group: whether a failed line is about it.
    """
    bad = {"leaks", "doubled", "remnant"}
    titles = ("Wrong", "Reworded", "As it should be", "General answers that changed")
    found: tuple[list[Row], ...] = tuple([] for _ in titles)
    wrong, reworded, right, general = found
    for row in read_rows(path):
        group, is_bad = row["group"], bad & set(row["after_flags"])
        if is_bad and (group == "held_out" or group.startswith("matrix/")):
            wrong.append(row)
        elif group == "held_out" and not row["exact"]:
            reworded.append(row)
        elif group == "held_out" and row["before"] != row["after"]:
            right.append(row)
        elif group == "general" and not row["exact"]:
            general.append(row)
    explained = set(map(_explained_by, failed))
    return [
        {
            "title": f"{title} ({len(many)})",
            "rows": [{**r, "diff": diff(r["before"], r["after"])} for r in many[:SHOWN]],
            "open": title in explained,
        }
        for title, many in zip(titles, found, strict=True)
        if many
    ]


def _explained_by(measure: Measure) -> str:
    """Name the group of answers that says why a measure fails."""
    if measure.basis in (HELD_OUT, MATRIX):
        return "Wrong" if measure.direction == "≤" else "Reworded"
    return "General answers that changed" if measure.basis in (GENERAL, DIVERGENCE) else ""


def _pick_pairs(path: Path) -> list[tuple[str, Runs]]:
    """Sample pairs evenly: the prompt, and what differs."""
    rows = list(islice(read_rows(path, ("prompt", "chosen", "rejected")), SAMPLED_FROM))
    return [
        (r["prompt"][-1]["content"], diff(r["rejected"][0]["content"], r["chosen"][0]["content"]))
        for r in rows[:: -(-len(rows) // SHOWN) or 1]
    ]


def _flatten(tree: Mapping[str, object], path: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{path}{key}", text
