"""One run of a flow: a line for every stage, and its summary.json at the end."""

import json
import logging
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, cast

from prefect import Flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from pydantic import BaseModel
from rich.logging import RichHandler
from rich.markup import escape

from dpo_pipeline.config import (
    EvaluateConfig,
    ExperimentConfig,
    PipelineConfig,
    PreferenceConfig,
    SweepConfig,
)
from dpo_pipeline.errors import DPOPipelineError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.pairs.lineage import Lineage, ModelOrigin
from dpo_pipeline.prompts.sources import Origin
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.store.text import excerpt
from tasks.caching import model_of
from tasks.console import console
from tasks.runtime import home

PACKAGES = (
    "dpo-pipeline", "prefect", "torch", "transformers", "trl", "datasets", "pyarrow",
    "huggingface_hub",
)  # fmt: skip

C = TypeVar("C", PipelineConfig, SweepConfig, EvaluateConfig, PreferenceConfig)


def begin(config: C) -> tuple["Run", C]:
    """Begin a flow run: fill in the settings that are left to others, and say what they are."""
    resolved = config.resolve()
    run = Run(resolved)
    if filled := _describe_filled(config, resolved, run.model):
        run.say(f"{'settings':<9} {filled}", style="dim")
    return run, resolved


class Run:
    """What one flow run did so far, told to a person as it happens.

    Attributes:
        model: Name of the model, as it is set.
        folder: `runs/<name>-<id>` under the home folder.
        stages: Stage -> status ("built" or "cached"), seconds, rows, key and path.
    """

    def __init__(self, config: ExperimentConfig | PreferenceConfig | EvaluateConfig) -> None:
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            raise RuntimeError("Run() belongs in the body of a flow")
        self.config = config
        self.run_id = str(context.flow_run.id)
        self.name = context.flow_run.name
        self.folder = home() / "runs" / f"{self.name}-{self.run_id[:8]}"
        self.folder.mkdir(parents=True)
        self.stages: dict[str, dict[str, Any]] = {}
        self._started = time.monotonic()
        model = config.policy if isinstance(config, EvaluateConfig) else config.model
        self.model = model.name
        self.say(f"model {self.model}, data {config.prompts.source}, run {self.name}")

    @property
    def seconds(self) -> float:
        """Time since the run began (seconds)."""
        return round(time.monotonic() - self._started, 1)

    def say(self, line: str, style: str = "") -> None:
        """Tell a line to the terminal and to the run's log."""
        console.print(escape(line), style=style)
        get_run_logger().info(line)

    def stage(self, task: Callable[..., Any], *args: Any, variant: str = "") -> Artifact:
        """Run a stage's task and tell in one line what came of it.

        Args:
            task: The stage.
            args: Its arguments.
            variant: What tells it from the same stage with other settings.

        Raises:
            DPOPipelineError: The stage's own error; the line names the stage.
        """
        started, kind = time.monotonic(), task.name  # type: ignore[attr-defined]
        name = f"{kind} {variant}".strip()
        state: State[Artifact] = task(*args, return_state=True)
        seconds = round(time.monotonic() - started, 2)
        if not state.is_completed():
            self.say(f"{name:<9} failed {seconds:6.1f} s", style="bold red")
        artifact: Artifact = state.result()
        status = "cached" if state.name == "Cached" else "built"
        self.stages[name] = {
            "status": status,
            "seconds": seconds,
            "rows": artifact.stats.get("pairs", artifact.stats.get("rows")),
            "key": artifact.key,
            "path": str(artifact.path),
        }
        self.say(
            f"{name:<9} {status:<6} {seconds:6.1f} s  {_headline(kind, artifact.stats)}",
            style="dim" if status == "cached" else "",
        )
        if kind == "rewrite":
            self._warn_of_template(artifact.stats["default_system"])
        return artifact

    def outcome(
        self, policy: Artifact, dataset: Artifact | None, score: Artifact
    ) -> dict[str, Any]:
        """Say what the run made, by which settings and code; no machine path."""
        ref, config = model_of(policy), self.config
        trained = None if isinstance(config, EvaluateConfig) else settings_of(config.train)
        return {
            "policy": {
                "weights_digest": ref.weights_digest,
                "template_digest": ref.template_digest,
                "template": policy.stats.get("template"),
            },
            "train": trained,
            "dataset": dataset.digest if dataset else None,
            "scorecard": score.digest,
            "stages": {name: stage["key"] for name, stage in self.stages.items()},
            "commit": _commit(),
        }

    def _warn_of_template(self, said: dict[str, Any]) -> None:
        """Say that the chat template claims the old name, and what changes that."""
        if isinstance(self.config, PreferenceConfig) or self.config.identity.patch_template:
            return
        if said["names_original"]:
            self.say(
                f"{'':<9} the chat template inserts {excerpt(said['text'])!r} where no system "
                "message is sent; --identity.patch-template gives it the new name",
                style="yellow",
            )

    def lineage(self, model: Artifact, source: Artifact) -> Lineage:
        """Say where the pairs come from: digests, revisions, settings; no machine path."""
        names = ("identity", "generation", "pairs")
        sections = {
            s: settings_of(getattr(self.config, s)) for s in names if hasattr(self.config, s)
        }
        # Where a server stands is nobody else's business.
        for setting in ("base_url", "served_model"):
            sections.get("generation", {}).pop(setting, None)
        return Lineage(
            model=ModelOrigin.of(model_of(model)),
            prompts=Origin.model_validate({**source.stats["source"], "digest": source.digest}),
            **sections,
        )

    def write_summary(self, paths: dict[str, Any], **facts: Any) -> dict[str, Any]:
        """Write summary.json; its keys stay from version to version.

        Args:
            paths: What the person will want to find: name -> path.
            facts: What this flow found: verdict, scorecard, answers, ...
        """
        path = self.folder / "summary.json"
        summary = {
            "run_id": self.run_id,
            "run_name": self.name,
            "seconds": self.seconds,
            **facts,
            "stages": self.stages,
            "paths": {name: str(p) for name, p in {**paths, "summary": path}.items()},
            "config": self.config.model_dump(mode="json"),
            "versions": versions(),
        }
        path.write_text(json.dumps(summary, ensure_ascii=False, indent=2), encoding="utf-8")
        return summary

    def add_to_summary(self, **facts: Any) -> None:
        """Write summary.json again, with what came after it was written."""
        path = self.folder / "summary.json"
        summary = {**json.loads(path.read_text(encoding="utf-8")), **facts}
        path.write_text(json.dumps(summary, ensure_ascii=False, indent=2), encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    installed = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **installed}


def _commit() -> str | None:
    """Return the commit of the checkout this code runs from; null outside of one."""
    root, git = Path(__file__).parent.parent, shutil.which("git")
    if not (git and (root / ".git").exists()):
        return None
    described = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    done = subprocess.run([git, "-C", str(root), *described], capture_output=True, text=True)
    return done.stdout.strip() or None


def _describe_filled(given: BaseModel, resolved: BaseModel, model: str) -> str:
    """Name the settings that were filled in, each section's with what it depends on."""
    said = []
    for section, after in resolved:
        before = dict(getattr(given, section))
        filled = [f"{n} {_shown(value)}" for n, value in after if value != before[n]]
        source = after.original_name if isinstance(after, IdentityConfig) else model
        if filled:
            said.append(f"{', '.join(filled)} ({source})")
    return "; ".join(said)


def _shown(value: object) -> str:
    if isinstance(value, dict | tuple):
        return "/".join(value) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _headline(stage: str, stats: dict[str, Any]) -> str:
    """Say in a few words what a stage made."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in stats.get("reasons", {}).items())
    refused = f" (quarantine: {reasons})" if reasons and stage != "save" else ""
    if "model" in stats and stage != "train":
        return f"{stats['model']['name']}, weights {stats['model']['weights_digest'][:12]}"
    if stage in ("download", "save"):
        what = "prompts" if stage == "download" else "pairs"
        return f"{stats['train']:,} {what} to train, {stats['held_out']:,} held out{refused}"
    if stage == "generate":
        failed = f", {stats['error']} failed" if stats["error"] else ""
        return f"{stats['rows']:,} answers, {stats['length']} cut off{failed}"
    if stage in ("rewrite", "prepare"):
        return f"{stats['pairs']:,} pairs of {stats['rows']:,} rows{refused}"
    if stage == "train":
        first, last = stats["first"], stats["last"]
        early = f" of {stats['planned_steps']}" if stats["stopped"] else ""
        return (
            f"{stats['steps']}{early} steps ({stats['engine']}), loss {first['loss']:.3f} -> "
            f"{last['loss']:.3f}, reward margin {last['margin']:.1f}"
        )
    if stage == "parity":
        same, kl = (stats[name]["value"] for name in ("export_same_answers", "export_kl"))
        far = "not comparable" if kl is None else f"{kl:.2g}"
        return f"{same:.1%} of {stats['rows']:,} answers the same, KL {far}"
    return f"{stats['rows']:,} answers compared"


def run_script(flow: Flow[..., Any], config: BaseModel) -> int:
    """Run a flow for a person at a terminal.

    Returns:
        Exit status: 0 where the flow completed, 1 where a stage or the gate failed.
    """
    handler = RichHandler(console=console, show_path=False, show_time=False, level="WARNING")
    logging.getLogger("dpo_pipeline").addHandler(handler)
    # Nobody watches a script's heartbeat, and ending its thread takes a second.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        state: State[Any] = cast(Any, flow)(config, return_state=True)
    if state.is_completed():
        return 0
    error = state.result(raise_on_failure=False)
    if isinstance(error, DPOPipelineError):
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
    elif isinstance(error, BaseException) and state.message and "Gate failed" not in state.message:
        raise error
    return 1
