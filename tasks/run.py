"""One run of a flow: its stage lines, its summary.json, its report and its final word."""

import json
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from typing import Any

from prefect import Flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed, Failed, State
from pydantic import BaseModel
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.errors import DPOPipelineError
from dpo_pipeline.keys import settings_of
from dpo_pipeline.report import scorecard_markdown, scorecard_rows, write_report
from dpo_pipeline.store import Artifact
from tasks.caching import model_of
from tasks.console import console
from tasks.runtime import home
from tasks.stages import publish

PACKAGES = (
    "dpo-pipeline", "prefect", "torch", "transformers", "trl", "datasets", "pyarrow",
    "huggingface_hub",
)  # fmt: skip


class Run:
    """What one flow run did so far, told to a person as it happens.

    Attributes:
        folder: `runs/<name>-<id>` under the home folder: summary.json and report.html.
        stages: Stage -> status ("built" or "cached"), seconds, rows, key and path.
        published: What went to the Hub, or would have; null if nothing.
    """

    def __init__(self, config: PipelineConfig) -> None:
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            raise RuntimeError("Run() belongs in the body of a flow")
        self.config = config
        self.run_id = str(context.flow_run.id)
        self.name = context.flow_run.name
        self.folder = home() / "runs" / f"{self.name}-{self.run_id[:8]}"
        self.folder.mkdir(parents=True)
        self.stages: dict[str, dict[str, Any]] = {}
        self.published: dict[str, Any] | None = None
        self._started = time.monotonic()
        identity = config.identity
        self.say(
            f"{identity.original_name} -> {identity.new_name}: model {config.model.name}, "
            f"prompts {config.prompts.source}, run {self.name}"
        )

    def say(self, line: str, style: str = "") -> None:
        """Tell a line to the terminal and to the run's log."""
        console.print(escape(line), style=style)
        get_run_logger().info(line)

    def stage(self, task: Callable[..., State[Artifact]], *args: Any) -> Artifact:
        """Run a stage's task and tell in one line what came of it.

        Raises:
            DPOPipelineError: The stage's own error; the line names the stage.
        """
        started = time.monotonic()
        name = task.name  # type: ignore[attr-defined]
        state = task(*args, return_state=True)  # type: ignore[call-arg]
        seconds = round(time.monotonic() - started, 2)
        if not state.is_completed():
            self.say(f"  {name:<9} failed    {seconds:6.1f} s", style="bold red")
        artifact: Artifact = state.result()  # type: ignore[assignment]
        status = "cached" if state.name == "Cached" else "built"
        rows = artifact.stats.get("pairs", artifact.stats.get("rows"))
        self.stages[name] = {
            "status": status,
            "seconds": seconds,
            "rows": rows,
            "key": artifact.key,
            "path": str(artifact.path),
        }
        mark = "[dim]=[/]" if status == "cached" else "[green]+[/]"
        line = f"{name:<9} {status:<6} {seconds:6.1f} s  {_headline(name, artifact.stats)}"
        console.print(f"{mark} {escape(line)}")
        get_run_logger().info(line)
        return artifact

    def lineage(self, model: Artifact, prompts: Artifact) -> dict[str, Any]:
        """Say where the pairs come from: digests, revisions, settings; no machine path."""
        ref = model_of(model)
        return {
            "model": {
                "name": ref.name,
                "revision": ref.revision,
                "weights_digest": ref.weights_digest,
                "template_digest": ref.template_digest,
            },
            "prompts": {**prompts.stats.get("source", {}), "digest": prompts.digest},
            **{
                section: settings_of(getattr(self.config, section))
                for section in ("identity", "generation", "pairs")
            },
        }

    def publish(self, *, policy: Artifact, dataset: Artifact, score: Artifact) -> None:
        """Publish what the configuration names, if the gate passed or is overruled.

        Raises:
            PublishError: The evidence, the token or the Hub refuses.
        """
        config = self.config.publish
        if not (config.model_repo or config.dataset_repo):
            return
        if not (_read_card(score)["verdict"]["passed"] or config.force):
            self.say("  publish   nothing: the gate failed")
            return
        out = self.folder / "publish"
        out.mkdir()
        self.published = publish(
            config, self.run_id, policy, dataset, score, dataset.stats["lineage"], out
        )
        for kind in self.published.keys() & {"model", "dataset"}:
            done = self.published[kind]
            what = f"would go, see {out}" if config.dry_run else f"commit {done['commit']}"
            self.say(f"  publish   {kind} {done['repo']}: {what}")

    def finish(
        self, *, prompts: Artifact, dataset: Artifact, policy: Artifact, score: Artifact
    ) -> State[Any]:
        """Write summary and report, show the proof, and say the verdict.

        Returns:
            Completed where the gate passed, else Failed with every line that failed.
        """
        card = _read_card(score)
        report = write_report(
            self.folder / "report.html",
            scorecard=card,
            answers=score.path / "answers.parquet",
            history=policy.path / "history.jsonl",
            pairs=dataset.path / "train.parquet",
            quarantine=Counter(prompts.stats["reasons"]) + Counter(dataset.stats["reasons"]),
            lineage={**dataset.stats["lineage"], "versions": _versions()},
            stages=[{"name": name, **stage} for name, stage in self.stages.items()],
        )
        summary = {
            "run_id": self.run_id,
            "run_name": self.name,
            "seconds": round(time.monotonic() - self._started, 1),
            "verdict": card["verdict"],
            "scorecard": {"before": card["before"], "after": card["after"]},
            "answers": card["examples"],
            "stages": self.stages,
            "paths": {
                "report": str(report),
                "summary": str(self.folder / "summary.json"),
                "policy": str(model_of(policy).path),
                "dataset": str(dataset.path),
                "scorecard": str(score.path / "scorecard.json"),
            },
            "published": self.published,
            "config": self.config.model_dump(mode="json"),
            "versions": _versions(),
        }
        text = json.dumps(summary, ensure_ascii=False, indent=2)
        (self.folder / "summary.json").write_text(text, encoding="utf-8")
        create_markdown_artifact(scorecard_markdown(card), key="scorecard")
        create_table_artifact(card["examples"], key="answers", description="Before and after.")
        self._show(card, summary)
        if card["verdict"]["passed"]:
            return Completed(message=f"Gate passed; report: {report}")
        failed = "; ".join(
            f"{line['measure']} is {line['value']}, the gate asks {line['threshold']}"
            for line in card["verdict"]["failed"]
        )
        return Failed(message=f"Gate failed: {failed}; report: {report}")

    def _show(self, card: dict[str, Any], summary: dict[str, Any]) -> None:
        answers = Table("prompt", "before", "after", title="Answers", title_justify="left")
        for row in card["examples"]:
            answers.add_row(*(escape(row[column]) for column in ("prompt", "before", "after")))
        scores = Table("measure", title="Scorecard, held-out prompts", title_justify="left")
        for column in ("before", "after", "95% interval", "n", "gate"):
            scores.add_column(column, justify="right")
        for cells in scorecard_rows(card):
            scores.add_row(*map(escape, cells))
        console.print(answers, scores)
        passed = card["verdict"]["passed"]
        console.print(
            f"Gate {'passed' if passed else 'FAILED'} in {summary['seconds']} s",
            style="bold green" if passed else "bold red",
        )
        for name, path in summary["paths"].items():
            console.print(f"  {name:<9} {escape(path)}", no_wrap=True)
        console.print(
            "Next: open the report; or try another name, "
            "python flows/full.py --identity.new-name Aria"
            if passed
            else "Next: open the report; it shows which answers failed the gate.",
            highlight=False,
        )


def _read_card(score: Artifact) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((score.path / "scorecard.json").read_text(encoding="utf-8"))
    return card


def _headline(stage: str, stats: dict[str, Any]) -> str:
    """Say in a few words what a stage made."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in stats.get("reasons", {}).items())
    refused = f" (quarantine: {reasons})" if reasons else ""
    if stage == "model":
        return f"{stats['model']['name']}, weights {stats['model']['weights_digest'][:12]}"
    if stage in ("download", "save"):
        what = "prompts" if stage == "download" else "pairs"
        return f"{stats['train']:,} {what} to train, {stats['held_out']:,} held out{refused}"
    if stage == "generate":
        return f"{stats['rows']:,} answers, {stats['length']} cut off"
    if stage == "rewrite":
        return f"{stats['pairs']:,} pairs of {stats['rows']:,} answers{refused}"
    if stage == "train":
        last = stats["last"]
        return (
            f"{stats['steps']} steps ({stats['engine']}), loss {stats['first']['loss']:.3f} -> "
            f"{last['loss']:.3f}, reward margin {last['margin']:.1f}"
        )
    return f"{stats['rows']:,} answers compared"


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def run_script(flow: Flow[..., Any], config: BaseModel) -> int:
    """Run a flow for a person at a terminal.

    Returns:
        Exit status: 0 where the gate passed, 1 where it failed or a stage did.
    """
    handler = RichHandler(console=console, show_path=False, show_time=False, level="WARNING")
    logging.getLogger("dpo_pipeline").addHandler(handler)
    # Nobody watches a script's heartbeat, and ending its thread takes a second.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        state: State[Any] = flow(config, return_state=True)
    if state.is_completed():
        return 0
    error = state.result(raise_on_failure=False)
    if isinstance(error, DPOPipelineError):
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
    elif isinstance(error, BaseException):
        raise error
    return 1
