"""A stage: a typed function that becomes a Prefect task, a cache key and a line of the record.

    @stage(packages=("pyarrow",), says=lambda stats: f"{stats.pairs:,} pairs")
    def rewrite(build: Build, *, answers: Artifact[AnswerStats], pairs: PairsConfig) -> PairStats:
        from dpo_pipeline.pairs.rewriting import build_pairs

        return build_pairs(answers.path / "responses.parquet", pairs, build.out)

The flow calls `rewrite(answers=..., pairs=...)` and gets an artifact. Its key holds the
arguments (an artifact's key and digest, a section's settings, the content of a file), the body
of the function, the code of the library modules that the body imports and of all that these
import, and the versions of the packages named.

Caching is the store's alone. Prefect's own cache records that a result was returned once; it
neither looks at the files that a result points to nor at code outside the task. The store
verifies every byte, and a stage returns a state named Cached where nothing had to be built, so
that the UI shows it. Prefect persists no result: there is one truth, and no pickle to trust.
"""

import ast
import inspect
import shutil
import socket
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, get_type_hints

from prefect import get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from prefect.states import Cancelled, Completed
from pydantic import BaseModel, JsonValue

from dpo_pipeline.answers.records import How, Spread
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import StoreError
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.plaintext import plain
from dpo_pipeline.store.artifacts import Artifact, Store
from dpo_pipeline.store.digests import known_digest
from dpo_pipeline.store.keys import KeyParts, explain, settings_of, stage_parts
from dpo_pipeline.store.objects import open_store
from dpo_pipeline.store.records import Record
from dpo_pipeline.training.records import Pruned
from dpo_pipeline.training.run import Watch
from tasks.console import Report, progress
from tasks.run import Run, StageRecord, short
from tasks.runners import UNCACHED, spread
from tasks.runtime import time_limit

P = ParamSpec("P")
S = TypeVar("S", bound=Record)


@dataclass(frozen=True)
class Build:
    """Where a stage works, beside its arguments: nothing here changes its result."""

    out: Path  # empty folder, the artifact to be
    work: Path  # scratch folder that survives a crash, for checkpoints
    report: Report
    ledger: Path  # answers that were generated once, shared by all runs
    references: Path  # reference log-probabilities, shared by all trainings
    watch: Watch | None  # told what a training says on the way; it raises Pruned to end it
    spread: Spread | None  # has others answer; null: this process does

    def how(self, run_on: ModelConfig, generation: GenerationConfig) -> How:
        """Say how a model answers in this stage."""
        return How(model=run_on, config=generation, ledger=self.ledger, spread=self.spread)


@dataclass(frozen=True)
class Stage(Generic[P, S]):
    """A stage of the pipeline, called by the flow with its arguments by name."""

    function: Callable[..., S]
    declared: "stage"
    kind: str  # name of its artifacts in the store
    name: str  # name of its Prefect task, and of its line in the record
    watch: Watch | None = None

    def named(self, name: str, watch: Watch | None = None) -> "Stage[P, S]":
        """Return the same stage under another name, for a second use of it in one flow."""
        return replace(self, name=name, watch=watch)

    def __call__(self, *args: P.args, **inputs: P.kwargs) -> Artifact[S]:
        """Return the stage's artifact, reused where one fits, and note it in the run's record.

        Raises:
            DPOPipelineError: The stage's own error; the line on the console names the stage.
            Pruned: By the one who watches it; its task ends as Cancelled, named Pruned.
        """
        run = Run.current()

        def run_stage(**inputs: Any) -> Artifact[S] | State[Artifact[S]]:
            try:
                # Workers get a copy of this task, and the run itself cannot be sent.
                return self._get_or_build(inputs, Run.current())
            except Pruned as why:
                return Cancelled(name="Pruned", message=str(why))

        signature = inspect.signature(partial(self.function, None))  # without the Build
        run_stage.__signature__ = signature  # type: ignore[attr-defined]
        run_stage.__doc__ = self.function.__doc__
        started = time.monotonic()
        works_on = f"{self.name} {short(run.model)} {self.declared.on(**inputs)}".strip()
        options = {**UNCACHED, "timeout_seconds": time_limit("DPO_PIPELINE_STAGE_TIMEOUT")}
        run_task: Any = task(name=self.name, task_run_name=works_on, **options)(run_stage)
        state: State[Artifact[S]] = run_task(**inputs, return_state=True)
        seconds = round(time.monotonic() - started, 2)
        if state.name == "Pruned":
            run.say(f"{self.name:<9} pruned {seconds:6.1f} s  {state.message}", style="dim")
            raise Pruned(state.message)
        if not state.is_completed():
            run.failed_at = self.name
            run.say(f"{self.name:<9} failed {seconds:6.1f} s", style="bold red")
        artifact = state.result()
        status: Literal["built", "cached"] = "cached" if state.name == "Cached" else "built"
        rows = getattr(artifact.stats, "pairs", getattr(artifact.stats, "rows", None))
        run.stages[self.name] = StageRecord(
            status=status, seconds=seconds, rows=rows, key=artifact.key, path=str(artifact.path)
        )
        run.say(
            f"{self.name:<9} {status:<6} {seconds:6.1f} s  {self.declared.says(artifact.stats)}",
            style="dim" if status == "cached" else "",
        )
        return artifact

    def key_parts(self, **inputs: Any) -> KeyParts:
        """Collect what the result depends on, of the arguments that the stage is called with."""
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(self.function))).body
        assert isinstance(definition, ast.FunctionDef)
        definition.decorator_list = []
        record = get_type_hints(self.function)["return"].__module__
        unread = self.declared.unread
        held = {name: _fingerprint(value, unread.get(name, ())) for name, value in inputs.items()}
        files = {path.name: known_digest(path) for path in self.declared.also_reads(**inputs)}
        return stage_parts(
            self.kind,
            modules={*_imported(definition), record, *self.declared.also_runs(**inputs)},
            body=ast.unparse(definition),
            packages=self.declared.packages,
            inputs=held | ({"files": dict(files)} if files else {}),
        )

    def _get_or_build(self, inputs: dict[str, Any], run: Run) -> Artifact[S] | State[Artifact[S]]:
        parts, store, logger = self.key_parts(**inputs), open_store(), get_run_logger()
        inputs = {name: _here(value, store) for name, value in inputs.items()}

        def build(out: Path, work: Path) -> S:
            if previous := store.latest_parts(self.kind):
                changed = explain(parts, previous) or [
                    "nothing: the last is lost, damaged or unfinished"
                ]
                said = "%s: building; changed since the last one: %s"
                logger.info(said, self.name, ", ".join(changed))
            counts = self.declared.counts
            with progress(self.kind, counts) if counts else nullcontext(lambda *_: None) as report:
                shared = (store.root / "ledger", store.root / "references")
                try:
                    return self.function(
                        Build(out, work, report, *shared, self.watch, spread()), **inputs
                    )
                except Pruned:
                    shutil.rmtree(work)  # nobody goes on from its checkpoints
                    raise
                except Exception as error:
                    error.args = tuple(plain(a) if isinstance(a, str) else a for a in error.args)
                    run.keep_refused(self.name, out)
                    raise

        record: type[S] = get_type_hints(self.function)["return"]
        refresh = bool(PREFECT_TASKS_REFRESH_CACHE.value())
        artifact, built = store.get_or_build(self.kind, parts, build, record, refresh=refresh)
        return artifact if built else Completed(name="Cached", data=artifact)


@dataclass(frozen=True, kw_only=True)
class stage:
    """Make a stage of a function, see the module's docstring."""

    says: Callable[..., str]  # what the record says of the stats, in a few words
    name: str = ""  # of the stage; empty: the function's
    on: Callable[..., str] = lambda **_: ""  # given the arguments: how many of what it works on
    packages: Collection[str] = ()  # installed packages whose version is part of the key
    counts: str = ""  # what its progress counts, for a bar; empty: none
    # Argument -> settings of it that the stage does not read, and its key not hold.
    unread: Mapping[str, Collection[str]] = field(default_factory=dict)
    # Given the arguments: modules of the library that it starts by name, and files of the library
    # that its code opens by itself.
    also_runs: Callable[..., Collection[str]] = lambda **_: ()
    also_reads: Callable[..., Collection[Path]] = lambda **_: ()

    def __call__(self, function: Callable[Concatenate[Build, P], S]) -> Stage[P, S]:
        """Return the stage, to be called without the Build."""
        kind = self.name or function.__name__
        return Stage(function, self, kind, kind)


def model_of(artifact: Artifact[Any]) -> ModelRef:
    """Return the model that an artifact holds, or that it records the place of."""
    recorded = ModelRef.model_validate(artifact.stats.model)
    # An absolute path (a local folder, the Hub's cache) stands for itself.
    return recorded.model_copy(update={"path": artifact.path / recorded.path})


def _here(value: Any, store: Store) -> Any:
    """Return an artifact as it lies on this machine, which may be a worker's."""
    if not isinstance(value, Artifact) or value.path.is_dir():
        return value
    found = store.get(value.stage, value.key, type(value.stats))
    if found is None:
        raise StoreError(
            f"{value.stage} {value.key} is neither at {value.path} nor in the store of "
            f"{socket.gethostname()}: share one DPO_PIPELINE_HOME with the workers, a folder or an "
            "address"
        )
    return found


def _imported(definition: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(definition):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        yield from (name for name in names if name.startswith("dpo_pipeline."))


def _fingerprint(value: Any, unread: Collection[str] = ()) -> JsonValue:
    """Return what a key holds of an argument."""
    match value:
        case Artifact():
            # Of a model its weights and template count, not where it was found.
            model = getattr(value.stats, "model", None)
            return settings_of(model) if model else {"key": value.key, "digest": value.digest}
        case _ if is_dataclass(value) and not isinstance(value, type):
            deeper = [name.partition(".") for name in unread]
            return {
                f.name: _fingerprint(
                    getattr(value, f.name), [inner for outer, _, inner in deeper if outer == f.name]
                )
                for f in fields(value)
            }
        case BaseModel():
            read = settings_of(value)
            return {name: read[name] for name in read.keys() - set(unread)}
        case Path():
            return known_digest(value)
    return value  # type: ignore[no-any-return]
