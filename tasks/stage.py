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
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, get_type_hints

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from prefect.states import Completed
from pydantic import BaseModel, JsonValue

from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.store.artifacts import Artifact, Store
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.keys import KeyParts, explain, settings_of, stage_parts
from dpo_pipeline.store.records import Record
from tasks.console import Report, progress
from tasks.run import Run
from tasks.runtime import home

P = ParamSpec("P")
S = TypeVar("S", bound=Record)

# Options of every Prefect task of this project.
UNCACHED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "result_serializer": "json",
}


@dataclass(frozen=True)
class Build:
    """Where a stage works, beside its arguments: nothing here changes its result."""

    out: Path  # empty folder, the artifact to be
    work: Path  # scratch folder that survives a crash, for checkpoints
    report: Report
    ledger: Path  # answers that were generated once, shared by all runs
    references: Path  # reference log-probabilities, shared by all trainings


class Stage(Generic[P, S]):
    """A stage of the pipeline, called by the flow with its arguments by name.

    Attributes:
        kind: Name of its artifacts in the store.
        name: Name of its Prefect task and of its line in the record; `named` gives another.
    """

    def __init__(
        self,
        function: Callable[Concatenate[Build, P], S],
        *,
        name: str,
        says: Callable[..., str],
        packages: Collection[str],
        counts: str,
        unread: Mapping[str, Collection[str]],
        also_runs: Callable[..., Collection[str]] | None,
    ) -> None:
        self.kind = self.name = name
        self._function: Callable[..., S] = function
        self._says, self._packages = says, packages
        self._counts, self._unread, self._also_runs = counts, unread, also_runs
        self._record: type[S] = get_type_hints(function)["return"]
        self._modules, self._body = _read_source(function)
        self.__doc__ = function.__doc__

    def named(self, name: str) -> "Stage[P, S]":
        """Return the same stage under another name, for a second use of it in one flow."""
        other = copy(self)
        other.name = name
        return other

    def __call__(self, *args: P.args, **inputs: P.kwargs) -> Artifact[S]:
        """Return the stage's artifact, reused where one fits, and note it in the run's record.

        Raises:
            DPOPipelineError: The stage's own error; the line on the console names the stage.
        """
        run_task = self._task()
        return Run.current().follow(
            self.name, lambda: run_task(**inputs, return_state=True), self._says
        )

    def key_parts(self, **inputs: Any) -> KeyParts:
        """Collect what the result depends on, of the arguments that the stage is called with."""
        started = self._also_runs(**inputs) if self._also_runs else ()
        return stage_parts(
            self.kind,
            modules={*self._modules, *started},
            body=self._body,
            packages=self._packages,
            inputs={
                name: _fingerprint(value, self._unread.get(name, ()))
                for name, value in inputs.items()
            },
        )

    def _task(self) -> Callable[..., State[Artifact[S]]]:
        def run_stage(**inputs: Any) -> Artifact[S] | State[Artifact[S]]:
            return self._get_or_build(inputs)

        signature = inspect.signature(self._function)
        parameters = list(signature.parameters.values())[1:]  # all but the Build
        run_stage.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run_stage.__doc__ = self.__doc__
        made: Any = task(name=self.name, **UNCACHED)(run_stage)
        return cast(Callable[..., State[Artifact[S]]], made)

    def _get_or_build(self, inputs: dict[str, Any]) -> Artifact[S] | State[Artifact[S]]:
        parts, store, logger = self.key_parts(**inputs), Store(home()), get_run_logger()

        def build(out: Path, work: Path) -> S:
            if previous := store.latest_parts(self.kind):
                changed = explain(parts, previous) or [
                    "nothing: the last is lost, damaged or unfinished"
                ]
                said = "%s: building; changed since the last one: %s"
                logger.info(said, self.name, ", ".join(changed))
            shown = progress(self.kind, self._counts) if self._counts else nullcontext(_silent)
            with shown as report:
                shared = (store.root / "ledger", store.root / "references")
                return self._function(Build(out, work, report, *shared), **inputs)

        artifact, built = store.get_or_build(
            self.kind, parts, build, self._record, refresh=_refresh_asked()
        )
        return artifact if built else Completed(name="Cached", data=artifact)


def stage(
    *,
    says: Callable[..., str],
    name: str = "",
    packages: Collection[str] = (),
    counts: str = "",
    unread: Mapping[str, Collection[str]] | None = None,
    also_runs: Callable[..., Collection[str]] | None = None,
) -> Callable[[Callable[Concatenate[Build, P], S]], Stage[P, S]]:
    """Make a stage of a function, see the module's docstring.

    Args:
        says: What the record says of the stats, in a few words.
        name: Name of the stage; empty: the function's.
        packages: Installed packages whose version is part of the key.
        counts: What its progress counts, for a bar; empty: none.
        unread: Argument -> settings of it that the stage does not read, and its key not hold.
        also_runs: Given the arguments, modules of the library that it starts by name.
    """

    def decorate(function: Callable[Concatenate[Build, P], S]) -> Stage[P, S]:
        return Stage(
            function,
            name=name or function.__name__,
            says=says,
            packages=packages,
            counts=counts,
            unread=unread or {},
            also_runs=also_runs,
        )

    return decorate


def model_of(artifact: Artifact[Any]) -> ModelRef:
    """Return the model that an artifact holds, or that it records the place of."""
    recorded = ModelRef.model_validate(artifact.stats.model)
    # An absolute path (a local folder, the Hub's cache) stands for itself.
    return recorded.model_copy(update={"path": artifact.path / recorded.path})


def _silent(done: int, total: int, note: str = "") -> None:
    """Report to nobody."""


def _read_source(function: Callable[..., object]) -> tuple[set[str], str]:
    """Return the library modules that a function's body imports, and the body itself."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    return set(_imported(definition)), ast.unparse(definition)


def _imported(definition: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(definition):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dpo_pipeline."):
            yield str(node.module)


def _refresh_asked() -> bool:
    context = TaskRunContext.get()
    asked = context.task.refresh_cache if context else None
    return bool(PREFECT_TASKS_REFRESH_CACHE.value() if asked is None else asked)


def _fingerprint(value: Any, unread: Collection[str] = ()) -> JsonValue:
    """Return what a key holds of an argument."""
    match value:
        case Artifact():
            return dict(value.identity())
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: _fingerprint(getattr(value, field.name)) for field in fields(value)}
        case BaseModel():
            read = settings_of(value)
            return {name: read[name] for name in read.keys() - set(unread)}
        case Path():
            return file_digest(value)
        case tuple() | list():
            return [_fingerprint(item) for item in value]
        case Mapping():
            return {str(name): _fingerprint(item) for name, item in value.items()}
    return value  # type: ignore[no-any-return]
