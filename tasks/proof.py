"""The end of a run: report, artifacts, tables on the terminal, and the flow's final word."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from dpo_pipeline.evaluation.measures import MEASURES
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.report.comparison import Compared, write_comparison
from dpo_pipeline.report.markdown import scorecard_markdown
from dpo_pipeline.report.page import write_report
from dpo_pipeline.report.rows import HEADS, collect_rows, scorecard_rows
from dpo_pipeline.report.words import explain_verdict, visible
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.store.text import excerpt
from tasks.caching import model_of
from tasks.console import console
from tasks.run import Run, versions
from tasks.stages import publish

# What an evaluation writes, name -> type.
FILES = {"scorecard": "json", "answers": "parquet"}


def publish_if_proven(
    run: Run,
    config: PublishConfig,
    *,
    reference: Artifact,
    policy: Artifact,
    dataset: Artifact,
    score: Artifact,
) -> None:
    """Publish what the configuration names, if the gate passed or is overruled.

    What went to the Hub, or would have, comes into summary.json; also what went before an error.

    Raises:
        PublishError: The evidence, the token or the Hub refuses.
    """
    if not (config.model_repo or config.dataset_repo):
        return
    if not (read_card(score).verdict.passed or config.force):
        run.say("publish   nothing: the gate failed; publish.force overrules it, with a reason")
        return
    out = run.folder / "publish"
    out.mkdir()
    sections = ("train", "evaluation", "gate")
    training = {name: settings_of(getattr(run.config, name)) for name in sections}
    try:
        publish(config, run.run_id, reference, policy, dataset, score, training, out)
    finally:
        if (record := out / "publish.json").exists():
            done = json.loads(record.read_text(encoding="utf-8"))
            run.add_to_summary(published=done)
            for line in _describe_publishing(done, out):
                run.say(f"publish   {line}")


def _describe_publishing(done: Mapping[str, Any], out: Path) -> Iterator[str]:
    """Say of each repository what came or would come of it, and how to go on."""
    for kind in ("dataset", "model"):
        if to := done.get(kind):
            signs = {"+": to["added"], "~": to["changed"], "-": to["deleted"]}
            counts = " ".join(f"{sign}{len(paths)}" for sign, paths in signs.items())
            counts += f", {to['unchanged']} unchanged"
            state = to.get("note") or ("new commit" if to["committed"] else "")
            where = to["repo"] if done["dry_run"] else to["url"]
            lost = f"; deletes {', '.join(to['deleted'])}" if to["deleted"] else ""
            yield f"{kind} {where}: {counts}{f' ({state})' if state else ''}{lost}"
    if done["dry_run"]:
        yield f"nothing was sent: look into {out}, then add --no-publish.dry-run"
        if done["note"]:
            yield f"it would fail now: {done['note']}"


def conclude(
    run: Run,
    *,
    prompts: Artifact,
    reference: Artifact,
    dataset: Artifact | None,
    policy: Artifact,
    score: Artifact,
) -> State[Any]:
    """Write report and summary, show before and after, and say the verdict.

    Returns:
        Completed where the gate passed, else Failed with every line that failed.
    """
    card = read_card(score)
    shown = card.model_dump(mode="json")
    refused = Counter(prompts.stats["reasons"])
    lineage = run.lineage(reference, prompts)
    paths = {"report": run.folder / "report.html", "policy": model_of(policy).path}
    if dataset:
        refused += Counter(dataset.stats["reasons"])
        paths["dataset"] = dataset.path
        paths["quarantine"] = dataset.path / "quarantine.parquet"
    history = policy.path / "history.jsonl"
    report = write_report(
        run.folder / "report.html",
        scorecard=card,
        answers=score.path / "answers.parquet",
        history=history if history.exists() else None,
        pairs=dataset.path / "train.parquet" if dataset else None,
        quarantine=refused,
        lineage={
            **lineage.model_dump(mode="json"),
            **run.outcome(policy, dataset, score),
            "versions": versions(),
        },
        stages=[{"name": name, **stage} for name, stage in run.stages.items()],
    )
    paths |= {name: score.path / f"{name}.{kind}" for name, kind in FILES.items()}
    if found := run.stages.get("parity"):
        paths["parity"] = Path(found["path"]) / "parity.json"
    summary = run.write_summary(
        paths,
        verdict=shown["verdict"],
        leaks=card.leaks,
        scorecard={"before": shown["before"], "after": shown["after"]},
        answers=shown["examples"],
        published=None,
    )
    create_markdown_artifact(scorecard_markdown(card), key="scorecard")
    create_table_artifact(shown["examples"], key="answers", description="Before and after.")
    _show(card, summary)
    if card.verdict.passed:
        return Completed(message=f"Gate passed; report: {report}")
    failed = "; ".join(" ".join(line) for line in explain_verdict(card).failed)
    return Failed(message=f"Gate failed: {failed}; report: {report}")


def conclude_preferences(
    run: Run, *, dataset: Artifact, policy: Artifact, score: Artifact
) -> State[Any]:
    """Write the summary of a run on existing preferences and show its measures."""
    measures = score.stats["measures"]
    summary = run.write_summary(
        {"policy": model_of(policy).path, "dataset": dataset.path}, preferences=measures
    )
    table = Table("measure", title="Held-out pairs, policy against reference", title_justify="left")
    for column in ("value", "95% interval", "n"):
        table.add_column(column, justify="right")
    figures = {name: Figure.model_validate(measure) for name, measure in measures.items()}
    for row in collect_rows({}, figures):
        name, _, *cells, _ = row.cells()
        table.add_row(*map(escape, (name, *cells)))
    create_table_artifact(
        [{"measure": name, **m} for name, m in measures.items()], key="preferences"
    )
    console.print(table if measures else "No held-out pair was measured.")
    _show_paths(summary["paths"])
    console.print(
        "Next: load the policy like any model, or train on pairs of your own: "
        "python flows/preference.py --prompts.source my-pairs.jsonl"
    )
    return Completed(message=f"Trained on {dataset.stats['train']} pairs in {run.seconds} s")


def conclude_sweep(run: Run, tried: Sequence[Mapping[str, Any]]) -> State[Any]:
    """Write the comparison and the summary of a sweep, best settings first.

    Args:
        run: The run so far.
        tried: name, settings, policy and score of every training.

    Returns:
        Completed where a training passed the gate, else Failed.
    """
    runs = [
        Compared(
            one["name"], one["settings"], read_card(one["score"]), one["policy"].stats["steps"]
        )
        for one in tried
    ]
    runs.sort(key=_merit, reverse=True)
    report = write_comparison(run.folder / "compare.html", runs)
    rows = [_figures(one) for one in runs]
    best = run.folder / "best.yaml"
    best.write_text(_as_yaml(run.config, runs[0].settings), encoding="utf-8")
    summary = run.write_summary({"report": report, "best": best}, tried=rows)
    create_table_artifact(rows, key="sweep", description="Trainings, the best first.")
    shown = [*runs[0].settings, "gate", "identity_rate", "edit_exactness", "kl"]
    table = Table(title="Trainings, the best first", title_justify="left")
    for column in shown:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        cells = [row[column] for column in shown]
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in cells))
    console.print(table)
    _show_paths(summary["paths"])
    if not runs[0].scorecard.verdict.passed:
        return Failed(message=f"Gate failed: none of {len(runs)} trainings passed; {report}")
    console.print(
        f"Next: python flows/full.py --config {summary['paths']['best']}",
        soft_wrap=True,
        markup=False,
    )
    return Completed(message=f"{runs[0].name} is the best of {len(runs)} trainings; {report}")


def _merit(one: Compared) -> tuple[bool, float]:
    """Rank a training: of those that pass the gate, the one that moves least elsewhere."""
    passed, after = one.scorecard.verdict.passed, one.scorecard.after
    exact, kl = after["edit_exactness"].value or 0.0, after["kl"].value
    return passed, (-math.inf if kl is None else -kl) if passed else exact


def _as_yaml(config: BaseModel, settings: Mapping[str, Any]) -> str:
    """Write a sweep's configuration with the settings of one training, for flows/full.py."""
    values = config.model_dump(mode="json", exclude={"grid"}, exclude_defaults=True)
    values["train"] = {**values.get("train", {}), **settings}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _figures(one: Compared) -> dict[str, Any]:
    """Lay out what a sweep is judged by: settings, verdict, some measures, steps of training."""
    after = one.scorecard.after
    return {
        **one.settings,
        "gate": "passed" if one.scorecard.verdict.passed else "failed",
        **{m.key: after[m.key].value for m in MEASURES if m.compared},
        "steps": one.steps,
    }


def read_card(score: Artifact) -> Scorecard:
    """Read the scorecard of an evaluation."""
    return Scorecard.read(score.path / "scorecard.json")


def _show(card: Scorecard, summary: dict[str, Any]) -> None:
    answers = Table("prompt", "before", "after", title="Answers", title_justify="left")
    for row in card.examples:
        shown = (excerpt(visible(text)) for text in (row.prompt, row.before, row.after))
        answers.add_row(*map(escape, shown))
    scores = Table("measure", title="Scorecard, held-out prompts", title_justify="left")
    for column in map(str.lower, HEADS[1:]):
        scores.add_column(column, justify="right")
    for cells in scorecard_rows(card):
        scores.add_row(*map(escape, cells))
    console.print(answers, scores)
    passed = card.verdict.passed
    console.print(
        f"Gate {'passed' if passed else 'FAILED'} in {summary['seconds']} s",
        style="bold green" if passed else "bold red",
    )
    for note in explain_verdict(card).notes:
        console.print(note, markup=False)
    _show_paths(summary["paths"])
    console.print(
        "Next: open the report, or try another name: python flows/full.py --identity.new-name Aria"
        if passed
        else "Next: open the report; it shows which answers failed. Where the old name leaks, "
        "train longer (--train.epochs, --train.learning-rate) or on more prompts; where other "
        "answers changed, train less or raise --train.sft-weight."
    )


def _show_paths(paths: dict[str, str]) -> None:
    for name, path in paths.items():
        console.print(f"  {name:<9} {escape(path)}", soft_wrap=True)
