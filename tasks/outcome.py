"""The end of a run: report, artifacts, tables on the terminal, and the flow's final word."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import JsonValue
from rich.markup import escape
from rich.table import Table

from dpo_pipeline.answers.records import Census
from dpo_pipeline.config import EvaluateConfig, ExperimentConfig, PreferenceConfig, SweepConfig
from dpo_pipeline.errors import TrainingError
from dpo_pipeline.evaluation.likelihood import PreferenceStats
from dpo_pipeline.evaluation.measures import MEASURES, find
from dpo_pipeline.evaluation.scorecard import Scorecard, ScoreStats
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelStats
from dpo_pipeline.pairs.dataset import DatasetStats
from dpo_pipeline.pairs.preferences import PreferenceStats as PreparedStats
from dpo_pipeline.pairs.rewriting import RewriteStats
from dpo_pipeline.pairs.schema import Lineage, ModelOrigin
from dpo_pipeline.pairs.settings import Way
from dpo_pipeline.plaintext import visible
from dpo_pipeline.prompts.preparation import PromptStats
from dpo_pipeline.report.page import (
    Compared,
    answers_markdown,
    scorecard_markdown,
    write_comparison,
    write_report,
)
from dpo_pipeline.report.words import HEADS, collect_rows, explain_verdict, scorecard_rows
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.store.text import excerpt
from dpo_pipeline.training.run import TrainStats
from dpo_pipeline.training.settings import Value, with_settings
from tasks.console import console
from tasks.run import GATE_FAILED, Run, commit, versions
from tasks.stage import model_of

ANSWERS = 20  # that a run shows in the UI

Model = Artifact[ModelStats]
Policy = Artifact[ModelStats] | Artifact[TrainStats]


def warn_of_template(pairs: Artifact[RewriteStats], identity: IdentityConfig) -> None:
    """Say that the chat template claims the old name, and what changes that."""
    inserted = pairs.stats.default_system
    if inserted.names_original and not identity.patch_template:
        Run.current().say(
            f"{'':<9} the chat template inserts {excerpt(str(inserted.text))!r} where no system "
            "message is sent; --identity.patch-template gives it the new name",
            style="yellow",
        )


def show_ways(pairs: Artifact[RewriteStats]) -> None:
    """Tell by which ways the pairs came: under each system prompt, in each language and family."""
    rows = [
        {"by": column, "value": value, **counts}
        for column, values in pairs.stats.ways.items()
        for value, counts in values.items()
    ]
    create_table_artifact(rows, key="pairs", description="Pairs by way; none: rows that are none.")
    table = Table("", *get_args(Way), "none", title="Pairs by way", title_justify="left")
    for row in rows:
        if row["by"] != "family":  # those are many: the artifact has them
            by, value, *counts = map(str, row.values())
            table.add_row(escape(excerpt(visible(f"{by} {value or 'empty'}"), 40)), *counts)
    console.print(table)


def lineage_of(
    config: ExperimentConfig | PreferenceConfig | EvaluateConfig,
    model: Model,
    source: Artifact[PromptStats] | Artifact[PreparedStats],
) -> Lineage:
    """Say where the pairs come from: digests, revisions, settings; no machine path."""
    names = ("identity", "generation", "pairs")
    sections = {name: settings_of(getattr(config, name)) for name in names if hasattr(config, name)}
    # Where a server stands is nobody else's business.
    for setting in ("base_url", "served_model"):
        sections.get("generation", {}).pop(setting, None)
    return Lineage(
        model=ModelOrigin.of(model_of(model)),
        prompts=source.stats.source.model_copy(update={"digest": source.digest}),
        **sections,
    )


def conclude(
    run: Run,
    prompts: Artifact[PromptStats],
    reference: Model,
    dataset: Artifact[DatasetStats] | None,
    policy: Policy,
    score: Artifact[ScoreStats],
) -> State[None]:
    """Write report and summary, show before and after, and say the verdict.

    Returns:
        Completed where the gate passed, else Failed with every line that failed.
    """
    card = Scorecard.read(score.path / "scorecard.json")
    census_file = Path(run.stages["census"].path) / "census.json"
    census = Census.read(census_file)
    refused = Counter(prompts.stats.reasons) + Counter(dataset.stats.reasons if dataset else {})
    history = policy.path / "history.jsonl"
    lineage = lineage_of(run.config, reference, prompts)
    report = write_report(
        run.folder / "report.html",
        scorecard=card,
        census=census,
        answers=score.path / "answers.parquet",
        history=history if history.exists() else None,
        pairs=dataset.path / "train.parquet" if dataset else None,
        quarantine=refused,
        lineage={
            **lineage.model_dump(mode="json", exclude_none=True),
            **_made(run, policy, dataset, score),
            "versions": versions(),
        },
        stages=[{"name": name, **stage.model_dump()} for name, stage in run.stages.items()],
    )
    paths = {"report": report, "policy": model_of(policy).path}
    if dataset:
        paths |= {"dataset": dataset.path, "quarantine": dataset.path / "quarantine.parquet"}
    paths |= {"census": census_file, "scorecard": score.path / "scorecard.json"}
    paths["answers"] = score.path / "answers.parquet"
    if found := run.stages.get("parity"):
        paths["parity"] = Path(found.path) / "parity.json"
    shown = card.model_dump(mode="json")
    summary = run.write_summary(
        paths,
        census=census.model_dump(mode="json", exclude={"answers"}),
        verdict=shown["verdict"],
        leaks=shown["leaks"],
        scorecard={"before": shown["before"], "after": shown["after"]},
        answers=shown["examples"],
        published=None,
    )
    _show_in_ui(run, card, score, report)
    _show(card, summary)
    if card.verdict.passed:
        return Completed(message=f"Gate passed; report: {report}")
    failed = "; ".join(" ".join(line) for line in explain_verdict(card).failed)
    return Failed(name=GATE_FAILED, message=f"{failed}; report: {report}")


def _show_in_ui(run: Run, card: Scorecard, score: Artifact[ScoreStats], report: Path) -> None:
    """Put scorecard, some answers and the report beside the run in the UI."""
    create_markdown_artifact(
        scorecard_markdown(card), key="scorecard", description="Before, after, and the gate."
    )
    create_markdown_artifact(
        answers_markdown(score.path / "answers.parquet", ANSWERS),
        key="answers",
        description=f"{ANSWERS} of {score.stats.rows} answers before and after.",
    )
    _link(run, report)


def _link(run: Run, report: Path) -> None:
    """Put the report beside the run in the UI: a link where it is served, else where it lies."""
    served = os.environ.get("DPO_PIPELINE_REPORTS", "").rstrip("/")
    if served:
        create_link_artifact(f"{served}/{run.name}/{report.name}", "The whole report", "report")
    else:
        said = f"The whole report is a page on the machine that ran this:\n\n    {report}"
        create_markdown_artifact(said, key="report", description="The report, a page by itself.")


def _made(
    run: Run,
    policy: Policy,
    dataset: Artifact[DatasetStats] | None,
    score: Artifact[ScoreStats],
) -> dict[str, JsonValue]:
    """Say what the run made, by which settings and code; no machine path."""
    patched = policy.stats.template if isinstance(policy.stats, TrainStats) else None
    template = patched.model_dump(mode="json") if patched else None
    config = run.config
    return {
        "policy": {**settings_of(model_of(policy)), "template": template},
        "train": None if isinstance(config, EvaluateConfig) else settings_of(config.train),
        "dataset": dataset.digest if dataset else None,
        "scorecard": score.digest,
        "stages": {name: stage.key for name, stage in run.stages.items()},
        "commit": commit(),
    }


def conclude_preferences(
    run: Run,
    dataset: Artifact[DatasetStats],
    policy: Policy,
    score: Artifact[PreferenceStats],
) -> State[None]:
    """Write the summary of a run on existing preferences and show its measures."""
    measures = score.stats.model_dump(mode="json")["measures"]
    summary = run.write_summary(
        {"policy": model_of(policy).path, "dataset": dataset.path}, preferences=measures
    )
    table = Table("measure", title="Held-out pairs, policy against reference", title_justify="left")
    for column in ("value", "95% interval", "n"):
        table.add_column(column, justify="right")
    for row in collect_rows({}, score.stats.measures):
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
    return Completed(message=f"Trained on {dataset.stats.train} pairs in {run.seconds} s")


def conclude_sweep(
    run: Run, asked: SweepConfig, tried: Sequence[Compared], dropped: Mapping[str, str]
) -> State[None]:
    """Write the comparison and the summary of a sweep, best settings first.

    `dropped` says of trainings that did not come to their end why.

    Returns:
        Completed where a training passed the gate, else Failed.
    Raises:
        TrainingError: None came to its end.
    """
    if not tried:
        name, why = next(iter(dropped.items()), ("", "search.trials is fewer than had ended early"))
        raise TrainingError(f"No training came to its end; {name}: {why}")
    ranked = sorted(tried, key=lambda one: one.merit, reverse=True)
    best, rows = ranked[0], [_figures(one) for one in ranked]
    report = write_comparison(run.folder / "compare.html", ranked, dropped)
    settings = _write_best(run, asked, best)
    paths = {"report": report, "best": settings, "policy": Path(best.policy)}
    summary = run.write_summary(paths, tried=rows, dropped=dict(dropped))
    create_table_artifact(rows, key="sweep", description="Trainings, the best first.")
    _link(run, report)
    # Of the measures, those that fit on a terminal.
    shown = [*best.settings, "gate", "nearest_line", "margin", "identity_worst", "kl"]
    _show_trainings([[row[column] for column in shown] for row in rows], shown)
    if dropped:
        console.print(f"{len(dropped)} ended early: the report says why.")
    _show_paths(summary["paths"])
    if not best.scorecard.verdict.passed:
        message = f"None of {len(ranked)} trainings passed the gate; report: {report}"
        return Failed(name=GATE_FAILED, message=message)
    again = f"python flows/full.py --config {settings}"
    console.print(
        f"Next: {again}\nor, to publish it (a dry run; --no-publish.dry-run sends it): {again} "
        "--publish.model-repo OWNER/NAME",
        markup=False,
    )
    return Completed(message=f"{best.name} is the best of {len(ranked)} trainings; {report}")


def _figures(one: Compared) -> dict[str, Value | None]:
    return {
        **one.settings,
        "gate": "passed" if one.scorecard.verdict.passed else "failed",
        "nearest_line": find(one.worst[1]).name,
        "margin": round(one.worst[0], 3),
        **{m.key: one.scorecard.after[m.key].value for m in MEASURES if m.compared},
        "steps": one.steps,
        "policy": one.policy,
    }


def _write_best(run: Run, asked: SweepConfig, best: Compared) -> Path:
    """Write for flows/full.py what was asked, with the settings of the best training."""
    values = asked.model_dump(mode="json", exclude={"grid", "search"}, exclude_defaults=True)
    values.get("generation", {}).pop("key_host", None)  # a file does not say who gets the key
    train = with_settings(asked.train, best.settings)
    values["train"] = train.model_dump(mode="json", exclude_unset=True)
    path = run.folder / "best.yaml"
    write_whole(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def _show_trainings(rows: Sequence[Sequence[object]], columns: Sequence[str]) -> None:
    table = Table(title="Trainings, the best first", title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row))
    console.print(table)


def _show(card: Scorecard, summary: Mapping[str, Any]) -> None:
    answers = Table("prompt", "before", "after", title="Answers", title_justify="left")
    for row in card.examples:
        answers.add_row(*(escape(excerpt(visible(t))) for t in (row.prompt, row.before, row.after)))
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


def _show_paths(paths: Mapping[str, str]) -> None:
    for name, path in paths.items():
        console.print(f"  {name:<9} {escape(path)}", soft_wrap=True)
