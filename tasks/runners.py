"""Where the work of a run is done: by itself, or shared out over processes, Dask or Ray.

Shared out are shards of answers, and whole calls such as the trainings of a sweep. Each is a
Prefect task in a worker, which needs this project in the same version, the model and the Prefect
server. Answers come back as the result of their task, and the run alone writes them to its ledger:
for them no disk need be shared.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from functools import cache, partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any
from urllib.parse import SplitResult, urlsplit

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, as_completed
from prefect.settings import PREFECT_API_URL
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from dpo_pipeline.answers.records import How, Response, Shard, Spread
from dpo_pipeline.config import RunConfig
from dpo_pipeline.errors import DPOPipelineError, ModelError, SettingsError, WorkerError
from dpo_pipeline.models.references import ModelRef, describe_model, resolve_model
from dpo_pipeline.starter.build import STARTER
from dpo_pipeline.store.keys import code_digests
from dpo_pipeline.store.objects import open_store
from dpo_pipeline.store.places import home
from dpo_pipeline.store.processes import die_with_parent
from dpo_pipeline.store.records import Record

# Options of every Prefect task of this project.
UNCACHED: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "result_serializer": "json",
}
LOSSES = 3  # times that a pool of processes may break
EXTRAS = {"dask": "prefect-dask", "ray": "prefect-ray"}
HERE = (None, "127.0.0.1", "localhost", "::1")
# What decides the numbers: the same versions give the same answers and weights.
NUMERIC = ("torch", "transformers", "tokenizers", "safetensors")
CODE = frozenset({"dpo_pipeline.answers.answering", "dpo_pipeline.training.child"})


class ChosenRunner(TaskRunner[Any]):
    """The task runner of every flow: threads, until the settings of the run choose another.

    Prefect opens a flow's task runner before the body runs and closes it however that ends; what
    the run is asked for is known in between. The runner that is chosen starts with its first task:
    a run that reuses everything starts no cluster.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = RunConfig()
        self._chosen: TaskRunner[Any] | None = None
        self._open = ExitStack()

    def duplicate(self) -> "ChosenRunner":
        """Return one for another run."""
        return ChosenRunner()

    def submit(self, *args: Any, **options: Any) -> PrefectFuture[Any]:
        """Hand a task to the runner that was chosen.

        Raises:
            SettingsError: No cluster answers at its address.
        """
        if self._chosen is None:
            try:
                _check_address(self.config.address)
                self._chosen = self._open.enter_context(make_runner(self.config))
            except (OSError, RuntimeError) as error:
                where = self.config.address or "this machine"
                raise SettingsError(
                    f"run.task_runner {self.config.task_runner}: no cluster at {where}: {error}"
                ) from error
        future: PrefectFuture[Any] = self._chosen.submit(*args, **options)
        return future

    def close(self) -> None:
        """End what was started; the next task starts it anew."""
        self._chosen = None
        self._open.close()

    def __exit__(self, *error: object) -> None:
        self.close()
        super().__exit__(*error)

    def each(
        self, work: Task[..., Any], calls: Sequence[Mapping[str, object]]
    ) -> Iterator[tuple[int, Any]]:
        """Run a task once with each set of arguments; yield its place and result as it ends.

        What loses its worker is done again: Dask and Ray see to it themselves, and a pool of
        processes, which breaks as a whole, is started anew here.

        Raises:
            WorkerError: The same work lost its worker time and again.
        """
        left, losses = dict(enumerate(calls)), 0
        while left:
            futures = {self.submit(work, dict(call)): place for place, call in left.items()}
            try:
                for future in as_completed(list(futures)):
                    result = future.result()
                    del left[futures[future]]
                    yield futures[future], result
            except BrokenProcessPool as error:
                losses += 1
                if losses == LOSSES:
                    raise WorkerError(_LOST.format(work.name)) from error
                self.close()
            except Exception as error:
                if type(error).__module__.partition(".")[0] in ("distributed", "ray"):
                    raise WorkerError(_LOST.format(work.name)) from error
                raise


_LOST = (
    "{} lost its worker time and again; the cause stands above. Is memory short there? Lower "
    "run.workers or generation.batch_tokens; what was answered is kept"
)


def make_runner(config: RunConfig) -> TaskRunner[Any]:
    """Make Prefect's own runner of a kind; one without an address starts its workers here."""
    runner: TaskRunner[Any] = ThreadPoolTaskRunner()
    local: dict[str, Any]
    match config.task_runner:
        case "processes":
            cores = max(1, (os.cpu_count() or 1) // config.workers)
            start = partial(_start_process, os.getpid(), cores)
            runner = ProcessPoolTaskRunner(config.workers, initializer=start)
        case "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            local = {"n_workers": config.workers, "threads_per_worker": 1}
            local |= {"dashboard_address": None}
            runner = DaskTaskRunner(
                address=config.address, cluster_kwargs=None if config.address else local
            )
        case "ray":
            from prefect_ray.task_runners import RayTaskRunner

            local = {"num_cpus": config.workers, "include_dashboard": False}
            local |= {"_node_ip_address": "127.0.0.1"}
            options = {"log_to_driver": False} | ({} if config.address else local)
            runner = RayTaskRunner(config.address, options)
    return runner


def _start_process(parent: int, cores: int) -> None:
    """Set a process of a pool up: it ends with the run, and takes its share of the cores."""
    die_with_parent(parent)
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def choose_runner(config: RunConfig) -> None:
    """Have the flow that runs share its work out as it is asked to.

    Raises:
        SettingsError: What that takes is not installed, or its workers could not reach the Prefect
            server.
    """
    name, api = config.task_runner, PREFECT_API_URL.value()
    if name == "threads":
        return
    if not api:
        raise SettingsError(
            f"run.task_runner {name}: its workers report to a Prefect server, and PREFECT_API_URL "
            "names none: `make server` starts one and says what to export"
        )
    if config.address and _host(config.address) not in HERE and _host(str(api)) in HERE:
        raise SettingsError(
            f"run.address {config.address}: workers elsewhere do not reach the Prefect server at "
            f"{api}: set PREFECT_API_URL to a server with an address that they reach"
        )
    extra = EXTRAS.get(name)
    if extra and not find_spec(extra.replace("-", "_")):
        raise SettingsError(f"run.task_runner {name} needs {extra}: pip install '.[{name}]'")
    runner = _runner()
    assert runner is not None  # OPTIONS gives it to every flow
    runner.config = config


def _parts(address: str) -> SplitResult:
    return urlsplit(address if "//" in address else f"//{address}")


def _host(address: str) -> str | None:
    return _parts(address).hostname


def _check_address(address: str | None) -> None:
    """Fail in seconds where nothing listens: Ray would try for a quarter of an hour."""
    parts = _parts(address or "")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=20).close()


def _runner() -> ChosenRunner | None:
    context = FlowRunContext.get()
    runner = context.task_runner if context else None
    return runner if isinstance(runner, ChosenRunner) else None


def sharing() -> ChosenRunner | None:
    """Return the runner of the flow that runs, where it shares work out."""
    runner = _runner()
    return runner if runner and runner.config.task_runner != "threads" else None


def spread() -> Spread | None:
    """Return what has shards answered by the workers of the run; null: the run answers itself."""
    runner = sharing()
    return partial(_answer, runner) if runner else None


def _answer(
    runner: ChosenRunner, ref: ModelRef, shards: Sequence[Shard], how: How, alone: bool
) -> Iterator[Mapping[str, Response]]:
    sent: How = {"model": how["model"], "config": how["config"], "ledger": how["ledger"]}
    common = {"ref": ref, "how": sent, "alone": alone, "asker": makings()}
    calls = [
        {**common, "shard": shard, "number": f"{number} of {len(shards)}"}
        for number, shard in enumerate(shards, 1)
    ]
    for _, answered in runner.each(answer_shard, calls):
        yield answered


def may_pass(_task: object, _run: object, state: State[object]) -> bool:
    """Tell whether trying again may help: not after an error the pipeline raised on purpose."""
    return not isinstance(state.result(raise_on_failure=False), DPOPipelineError)


@task(
    task_run_name="answer-shard {number}",
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
    **UNCACHED,
)
def answer_shard(
    number: str, ref: ModelRef, shard: Shard, how: How, alone: bool, asker: dict[str, str]
) -> dict[str, Response]:
    """Answer a shard in a worker, whose process keeps the model for the next."""
    from dpo_pipeline.answers.answering import ask

    check_worker(asker)
    found = ref if how["config"].engine == "openai" else find_model(ref)
    return dict(ask(found, shard, how, alone))


@cache
def makings() -> dict[str, str]:
    """Return the code and the versions that answers and weights come of, in this process."""
    # What stands behind a plus says for which hardware torch was built.
    versions = {name: metadata.version(name).partition("+")[0] for name in NUMERIC}
    return versions | code_digests(CODE)


def check_worker(asker: Mapping[str, str]) -> None:
    """Set a worker up for work of the run, given the `makings` there.

    Raises:
        WorkerError: The worker has other code or versions, and would give other results.
    """
    logging.getLogger("dpo_pipeline").setLevel(logging.INFO)
    mine = makings()
    if other := sorted(k for k in mine.keys() | asker.keys() if mine.get(k) != asker.get(k)):
        raise WorkerError(
            f"the worker on {socket.gethostname()} has another {', '.join(other)} than the run: "
            "install the same there, with -c constraints.txt"
        )


@cache
def find_model(ref: ModelRef) -> ModelRef:
    """Find the very weights on this machine: where the run has them, in the store, or on the Hub.

    Raises:
        ModelError: They are in none of these.
    """
    places: list[Callable[[], ModelRef]] = [partial(describe_model, ref.path, ref.name)]
    if ref.name == "starter":
        places.append(partial(describe_model, STARTER, ref.name))
    if "objects" in ref.path.parts:
        places.append(partial(_in_store, ref))
    if ref.revision:
        places.append(partial(resolve_model, ref.name, ref.revision))
    for look in places:
        with suppress(ModelError):
            found = look()
            if (found.weights_digest, found.template_digest) == (
                ref.weights_digest, ref.template_digest,
            ):  # fmt: skip
                return found
    raise ModelError(
        f"{ref.name} with weights {ref.weights_digest[:12]} is not on {socket.gethostname()}, "
        f"neither at {ref.path} nor in the store of {home()}: share one DPO_PIPELINE_HOME with the "
        "workers, a folder or an address, or name a model of the Hub"
    )


def _in_store(ref: ModelRef) -> ModelRef:
    """Find a model that the run has in an artifact; a store on object storage brings it here."""
    stage, key, *inside = ref.path.parts[ref.path.parts.index("objects") + 1 :]
    artifact = open_store().get(stage, key, Record)
    if artifact is None:
        raise ModelError(f"{stage} {key} is not in the store")
    return describe_model(artifact.path.joinpath(*inside), ref.name)
