"""One run of a flow: a line for every stage, and its summary.json at the end."""

import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import httpx
from prefect import Flow, get_client, get_run_logger, states
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import FailedRun
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)
from prefect.states import Cancelled
from pydantic import BaseModel
from rich.logging import RichHandler
from rich.markup import escape

from dpo_pipeline.config import (
    EvaluateConfig,
    PipelineConfig,
    PreferenceConfig,
    RunConfig,
    SweepConfig,
)
from dpo_pipeline.errors import DPOPipelineError, StoreError
from dpo_pipeline.identity.settings import AUTO, IdentityConfig
from dpo_pipeline.plaintext import plain, scrub
from dpo_pipeline.store.access import claim
from dpo_pipeline.store.files import appearing_whole, write_whole
from dpo_pipeline.store.objects import open_store
from dpo_pipeline.store.places import home
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.remote import prune, publish
from dpo_pipeline.training.launching import launcher
from tasks.console import beside, console
from tasks.ending import last_words
from tasks.runners import ChosenRunner, choose_runner
from tasks.runtime import lock_temporary_server, time_limit

Config = PipelineConfig | SweepConfig | EvaluateConfig | PreferenceConfig
C = TypeVar("C", PipelineConfig, SweepConfig, EvaluateConfig, PreferenceConfig)

PACKAGES = (
    "dpo-pipeline", "prefect", "torch", "transformers", "trl", "datasets", "pyarrow",
    "huggingface_hub",
)  # fmt: skip

GATE_FAILED = "GateFailed"  # name of the state of a run that ended well, with a bad result

_LOOK_EVERY = 2.0  # seconds

_current: ContextVar["Run"] = ContextVar("run")


class StageRecord(Record):
    """What a run says of one of its stages."""

    status: Literal["built", "cached"]
    seconds: float  # in this run
    rows: int | None  # or pairs, if it makes such
    key: str
    path: str


def begin(config: C) -> tuple["Run", C]:
    """Begin a flow run: fill in the settings that are left to others, and say what they are."""
    # Prefect hands on what the library logs, but sets no level.
    logging.getLogger("dpo_pipeline").setLevel(logging.INFO)
    logging.getLogger("prefect.flow_runs").addFilter(_is_no_verdict)
    run = Run(config)
    _current.set(run)
    last_words[:] = [run.fail]
    resolved = config.resolve()
    run.fill_in(resolved)
    if not isinstance(resolved, PreferenceConfig):
        choose_runner(resolved.run)
    if not isinstance(resolved, EvaluateConfig):
        launcher(resolved.train)  # a file that is wrong shall not wait for the answers
    if PREFECT_API_URL.value():  # else nobody can cancel it
        beside(run.end_when_cancelled)
    return run, resolved


def _is_no_verdict(record: logging.LogRecord) -> bool:
    """Tell what Prefect logs from the traceback that it adds to a state that a flow returned."""
    return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


def join(config: Config) -> None:
    """Take part in a run from a worker of it, where that is a process of its own."""
    context, run = FlowRunContext.get(), _current.get(None)
    if run is None or not (context and context.flow_run and str(context.flow_run.id) == run.run_id):
        logging.getLogger("dpo_pipeline").setLevel(logging.INFO)
        _current.set(Run(config, joining=True))


class Run:
    """What one flow run did so far, told to a person as it happens.

    Attributes:
        given, config: The configuration as it came, and with what was filled in.
        model: Name of the model, as it is set.
        name: `<model>-to-<new name>-<id>` and the like, in the Prefect UI as well.
        folder: `runs/<name>` under the home folder; there once something is written.
        stages: Name of the stage -> what came of it.
        failed_at: The stage that failed, if one did.
    """

    def __init__(self, config: Config, *, joining: bool = False) -> None:
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            raise RuntimeError("Run() belongs in the body of a flow")
        self.config = self.given = config
        self._flow_run = context.flow_run
        self.run_id = str(self._flow_run.id)
        self.stages: dict[str, StageRecord] = {}
        self.failed_at: str | None = None
        self.summary: dict[str, Any] = {}
        self._kept: dict[str, Path] = {}  # of a stage that failed
        self._started = time.monotonic()
        claim(home())
        store = open_store()
        store.sweep()
        self._held = store.hold()  # until this process ends
        model = config.policy if isinstance(config, EvaluateConfig) else config.model
        self.model = model.name
        if joining:
            self.name = self._flow_run.name
            return
        self._take_name()
        self.say(f"model {self.model}, data {config.prompts.source}, run {self.name}")

    @staticmethod
    def current() -> "Run":
        """Return the run whose flow calls this."""
        return _current.get()

    @property
    def folder(self) -> Path:
        """`runs/<name>` under the home folder."""
        return home() / "runs" / self.name

    def keep_refused(self, name: str, out: Path) -> None:
        """Keep the rows that a stage had refused before it failed, of what it wrote."""
        refused, kept = out / "quarantine.parquet", self.folder / f"{name}-quarantine.parquet"
        if refused.is_file():
            with suppress(OSError):  # the stage's own error is the one to tell
                kept.parent.mkdir(parents=True, exist_ok=True)
                with appearing_whole(kept) as partial:
                    shutil.copyfile(refused, partial)
                self._kept["quarantine"] = kept
                self.say(f"{name:<9} the rows that it refused, and why: {kept}")

    def fail(self, message: str) -> None:
        """Write why the run ended, into its summary or as one; what was said first stays."""
        if "error" in self.summary:
            return
        error = {"error": {"stage": self.failed_at, "message": plain(message)}}
        try:
            if self.summary:
                self.add_to_summary(**error)
            else:
                self.write_summary(self._kept, **error)
        except StoreError as why:
            console.print(f"No summary: {why}", style="red", markup=False)
            with suppress(OSError):
                self.folder.rmdir()  # nothing came to lie in it

    def fill_in(self, config: Config, by: str = "") -> None:
        """Go on with a configuration in which more is filled in; say what, and by what."""
        if filled := _describe_filled(self.config, config, by or self.model):
            self.say(f"{'settings':<9} {filled}", style="dim")
        self.config = config
        self._take_name()

    def _take_name(self) -> None:
        """Take the name that says what the run does; drop what it left at an earlier attempt."""
        self.name = self._flow_run.name = f"{describe(self.config)}-{self.run_id[:8]}"
        get_client(sync_client=True).set_flow_run_name(self._flow_run.id, self.name)
        shutil.rmtree(self.folder, ignore_errors=True)
        prune(self.folder)

    def end_when_cancelled(self) -> None:
        """End this process once its run is to be cancelled; no worker need be there to do so."""
        client, state = get_client(sync_client=True), self._flow_run.state
        while state and not state.is_final():
            time.sleep(_LOOK_EVERY)
            try:
                with suppress(httpx.HTTPError):
                    state = client.read_flow_run(self._flow_run.id).state
            except RuntimeError:  # the run is over, and its client closed
                return
            if state and state.is_cancelling():
                self.fail("Cancelled")
                # Said before the signal, or Prefect takes the run for crashed.
                self._flow_run.state = Cancelled()
                client.set_flow_run_state(self._flow_run.id, Cancelled(), force=True)
                os.kill(os.getpid(), signal.SIGTERM)
                # Threads that generate do not hear it.
                time.sleep(_LOOK_EVERY)
                os.kill(os.getpid(), signal.SIGKILL)

    @property
    def seconds(self) -> float:
        """Time since the run began (seconds)."""
        return round(time.monotonic() - self._started, 1)

    def say(self, line: str, style: str = "") -> None:
        """Tell a line to the terminal and to the run's log."""
        console.print(escape(plain(line)), style=style)
        get_run_logger().info(line)

    def write_summary(self, paths: Mapping[str, str | Path], **facts: object) -> dict[str, Any]:
        """Write summary.json: what this flow found and where; its keys stay between versions."""
        path = self.folder / "summary.json"
        self.summary = {
            "run_id": self.run_id,
            "run_name": self.name,
            "seconds": self.seconds,
            **facts,
            "stages": {name: stage.model_dump() for name, stage in self.stages.items()},
            "paths": {name: str(p) for name, p in {**paths, "summary": path}.items()},
            "config": self.config.model_dump(mode="json"),
            "versions": versions(),
        }
        self.add_to_summary()
        return self.summary

    def add_to_summary(self, **facts: object) -> None:
        """Write summary.json again, with what came after it was written."""
        self.summary |= facts
        text = scrub(json.dumps(self.summary, ensure_ascii=False, indent=2))
        write_whole(self.folder / "summary.json", text)
        publish(self.folder)


def describe(config: Config) -> str:
    """Say in a few words what a run does; fit for a folder's name, whatever was asked for."""
    match config:
        case EvaluateConfig():
            words = [config.policy.name, "against", config.reference.name]
        case PreferenceConfig():
            words = [config.model.name, "on", Path(config.prompts.source).stem]
        case _:
            name = config.identity.new_name  # auto until the census settles it
            words = [config.model.name, *(("to", name) if name != AUTO else ())]
            words += ["sweep"] if isinstance(config, SweepConfig) else []
    return "-".join(map(short, words))


def short(word: str) -> str:
    """Return the last part of a path or id in letters, digits, dots and dashes, cut short."""
    last = Path(word.lower()).name.removesuffix("-instruct")
    kept = re.sub(r"[^\w.]+", "-", last).strip("-.")
    return kept.encode()[:60].decode(errors="ignore") or "x"


def record_failure(_flow: object, flow_run: FlowRun, state: State[object]) -> None:
    """Write the summary of a run that failed before it had one, or after."""
    run = _current.get(None)
    if run and run.run_id == str(flow_run.id) and state.name != GATE_FAILED:
        run.fail(state.message or state.name or "")


def _tell_states_plainly() -> None:
    """Scrub what Prefect makes of an exception: the message of a state, wherever it was raised."""
    told = states.format_exception
    states.format_exception = lambda *args, **options: plain(told(*args, **options))


_tell_states_plainly()

# Options of every Prefect flow of this project.
OPTIONS: dict[str, Any] = {
    "log_prints": True,
    "persist_result": False,
    "task_runner": ChosenRunner(),
    "timeout_seconds": time_limit("DPO_PIPELINE_RUN_TIMEOUT"),
    "on_failure": [record_failure],
    "on_crashed": [record_failure],
}


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    installed = {name: metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **installed}


def commit() -> str | None:
    """Return the commit of the checkout this code runs from; null outside of one."""
    root, git = Path(__file__).parent.parent, shutil.which("git")
    if not (git and (root / ".git").exists()):
        return None
    described = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    done = subprocess.run([git, "-C", str(root), *described], capture_output=True, text=True)
    return done.stdout.strip() or None


def _describe_filled(given: BaseModel, resolved: BaseModel, by: str) -> str:
    """Name the settings that were filled in, each section's with what it depends on."""
    said = []
    for section, after in resolved:
        if not isinstance(after, BaseModel):  # an export that is not asked for
            continue
        before = dict(getattr(given, section))
        filled = [f"{n} {_shown(value)}" for n, value in after if value != before[n]]
        source = after.original_name if isinstance(after, IdentityConfig) else by
        if filled:
            said.append(f"{', '.join(filled)} ({source})")
    return "; ".join(said)


def _shown(value: object) -> str:
    if isinstance(value, dict | tuple):
        return "/".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def run_script(flow: Flow[..., State[None]], config: BaseModel | None) -> None:
    """Run a flow for a person at a terminal, if it has a configuration: its file runs as a script.

    The process ends with status 0 where the flow completed, 1 where a stage or the gate failed.
    """
    if config is None:
        return
    handler = RichHandler(console=console, show_path=False, show_time=False, level="WARNING")
    logging.getLogger("dpo_pipeline").addHandler(handler)
    # Nobody listens to a temporary server, and when it is gone it does not come back.
    alone: dict[Any, Any] = {
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_CLIENT_MAX_RETRIES: 2,
    }
    try:
        claim(home())
        lock_temporary_server()
        if PREFECT_API_URL.value() is None and PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
            from tasks.server import MortalServer

            server = MortalServer()
            server.start()
            if getattr(config, "run", RunConfig()).task_runner != "threads":
                # Each worker would start a server of its own.
                alone[PREFECT_API_URL] = server.api_url
    except DPOPipelineError as refused:
        sys.exit(f"{type(refused).__name__}: {refused}")
    with temporary_settings({} if PREFECT_API_URL.value() else alone):
        given = config.model_dump(mode="json", exclude_unset=True)
        try:
            state: State[None] = cast(Any, flow)(settings=given, return_state=True)
        except KeyboardInterrupt:  # `tasks.ending` has said so
            sys.exit(128 + signal.SIGINT)
    if state.is_completed():
        sys.exit(0)
    error = state.result(raise_on_failure=False)
    if isinstance(error, DPOPipelineError | TimeoutError):
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
    elif isinstance(error, BaseException) and state.name != GATE_FAILED:
        console.print(plain("".join(traceback.format_exception(error))), markup=False)
    sys.exit(1)
