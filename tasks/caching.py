"""Get-or-build for tasks: the store is the cache, and Prefect shows what it reused.

Prefect's own cache records that a result was returned once; it neither looks at the files
the result points to nor at code outside the task. So the tasks ask the store, which verifies
every byte, and return a state named Cached where nothing had to be built. Prefect persists
no result: there is one source of truth, and no pickle to trust.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext
from prefect.settings import PREFECT_TASKS_REFRESH_CACHE
from prefect.states import Completed
from pydantic import BaseModel

from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.store.artifacts import Artifact, Store
from dpo_pipeline.store.keys import explain, settings_of, stage_parts
from tasks.runtime import home

# Options of every stage's task.
STAGE: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "result_serializer": "json",
}


def store() -> Store:
    """Return the store of this process."""
    return Store(home())


def ledger() -> Path:
    """Return the folder of answers that were generated once, shared by all runs."""
    return home() / "ledger"


def get_or_build(
    stage: str,
    build: Callable[[Path, Path], dict[str, Any]],
    *,
    module: str,
    packages: Sequence[str] = (),
    inputs: Mapping[str, Any],
) -> Artifact | State[Artifact]:
    """Return a stage's artifact: as a state named Cached where it was reused.

    Args:
        stage: Name of the stage.
        build: Writes the artifact into its first argument, may keep checkpoints in its
            second, and returns the stats.
        module: Library module that makes the result; its code is part of the key.
        packages: Installed packages whose version is part of the key.
        inputs: What the result depends on: artifacts, models, settings sections, plain values.
    """
    parts = stage_parts(
        stage,
        module=module,
        packages=packages,
        inputs={name: _fingerprint(value) for name, value in inputs.items()},
    )
    artifacts, logger = store(), get_run_logger()

    def explained(out: Path, work: Path) -> dict[str, Any]:
        if previous := artifacts.latest_parts(stage):
            changed = explain(parts, previous) or [
                "nothing: the last is lost, damaged or unfinished"
            ]
            logger.info("%s: building; changed since the last one: %s", stage, ", ".join(changed))
        return build(out, work)

    artifact, built = artifacts.get_or_build(stage, parts, explained, refresh=_refresh_asked())
    return artifact if built else Completed(name="Cached", data=artifact)


def model_of(artifact: Artifact) -> ModelRef:
    """Return the model that an artifact holds, or that it records the place of."""
    recorded = artifact.stats["model"]
    # An absolute path (a local folder, the Hub's cache) stands for itself.
    return ModelRef.model_validate({**recorded, "path": str(artifact.path / recorded["path"])})


def _refresh_asked() -> bool:
    context = TaskRunContext.get()
    asked = context.task.refresh_cache if context else None
    return bool(PREFECT_TASKS_REFRESH_CACHE.value() if asked is None else asked)


def _fingerprint(value: Any) -> Any:
    if isinstance(value, Artifact):
        return value.identity()
    if isinstance(value, ModelRef):
        return {"weights": value.weights_digest, "template": value.template_digest}
    return settings_of(value) if isinstance(value, BaseModel) else value
