"""Work shared out over processes, Dask and Ray: the same answers, also when a worker is killed."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pyarrow.parquet as pq
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import LIMIT, wait_for
from tiny import make_tiny_model
from workplace import ROOT, Workplace

from dpo_pipeline.config import PipelineConfig, RunConfig
from dpo_pipeline.errors import ModelError, SettingsError, WorkerError
from dpo_pipeline.models.references import ModelRef, describe_model
from dpo_pipeline.starter.build import STARTER
from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.places import home
from dpo_pipeline.store.records import Record
from tasks.runners import check_worker, choose_runner, find_model, makings

FLOW = str(ROOT / "tests" / "support" / "answering_flow.py")
HERE = "http://127.0.0.1:4200/api"


def choose(api: str | None, **settings: object) -> None:
    with temporary_settings({PREFECT_API_URL: api}):
        choose_runner(RunConfig.model_validate(settings))


def test_an_address_is_of_a_cluster():
    with pytest.raises(ValueError, match=r"run.task_runner is\s+processes: set it to dask or ray"):
        PipelineConfig(run={"task_runner": "processes", "address": "tcp://10.0.0.5:8786"})
    with pytest.raises(ValueError, match="pattern"):
        RunConfig(task_runner="dask", address="tcp://me:secret@10.0.0.5:8786")


@pytest.mark.parametrize("kind", ["processes", "dask", "ray"])
def test_workers_need_a_prefect_server(kind):
    with pytest.raises(SettingsError, match=rf"{kind}.*PREFECT_API_URL names none.*make server"):
        choose(None, task_runner=kind)


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:8786", "head:6379", "ray://head:10001"])
def test_workers_elsewhere_do_not_reach_a_server_on_loopback(address):
    kind = "dask" if address.startswith("tcp") else "ray"
    with pytest.raises(SettingsError, match=rf"{address}.*do not reach.*{HERE}"):
        choose(HERE, task_runner=kind, address=address)


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_what_is_not_installed_is_named_with_the_extra_that_installs_it(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, f"prefect_{kind}", None)
    with pytest.raises(SettingsError, match=rf"needs prefect-{kind}: pip install '\.\[{kind}\]'"):
        choose(HERE, task_runner=kind)


def test_a_worker_with_other_code_or_versions_is_refused():
    check_worker(makings())
    with pytest.raises(WorkerError, match=r"another dpo_pipeline.answers.decoding, torch than"):
        check_worker(makings() | {"torch": "2.0", "dpo_pipeline.answers.decoding": "0"})


def test_a_worker_finds_the_very_weights_wherever_they_lie(tmp_path, monkeypatch):
    shipped = describe_model(STARTER, "starter")
    gone = {"path": tmp_path / "gone"}
    assert find_model(shipped.model_copy(update=gone)).path == STARTER

    folder = make_tiny_model(tmp_path / "tiny", "qwen2")
    monkeypatch.setenv("DPO_PIPELINE_HOME", str(tmp_path / "worker"))

    def keep(out: Path, _: Path) -> Record:
        shutil.copytree(folder, out / "model")
        return Record()

    artifact, _ = Store(home()).get_or_build("model", {}, keep, Record)
    there = Path("/elsewhere/objects/model") / artifact.key / "model"
    found = describe_model(folder, "tiny").model_copy(update={"path": there})
    stored = find_model(found).path
    assert stored == artifact.path / "model"

    (folder / "config.json").write_text("{}")  # other weights at the same place
    lost = describe_model(stored, "tiny").model_copy(update={"path": folder})
    with pytest.raises(ModelError, match=r"is not on .*share one DPO_PIPELINE_HOME"):
        find_model(ModelRef.model_validate(dict(lost)))


def answers(dpo: Path) -> tuple[list[dict], list[dict], list[str]]:
    """Return the rows of generate, those of evaluate, and the ledger's lines in order."""
    files = [*dpo.glob("objects/generate/*/responses.parquet")]
    files += dpo.glob("objects/evaluate/*/answers.parquet")
    generated, evaluated = (pq.read_table(file).to_pylist() for file in files)
    lines = [line for file in dpo.glob("ledger/*/*.jsonl") for line in file.open()]
    return generated, evaluated, sorted(lines)


def alive(mark: str) -> list[psutil.Process]:
    """Return the processes that were started with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TEST_MARK") == mark and process.status() != "zombie":
                found.append(process)
    return found


def is_worker(process: psutil.Process, kind: str) -> bool:
    """Tell a process that answers, of Ray one at work."""
    with contextlib.suppress(psutil.Error):
        command = " ".join(process.cmdline())
        return "ray::answer_shard" in command if kind == "ray" else "spawn_main" in command
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster(kind: str, work: Path, environment: dict[str, str]) -> Iterator[str | None]:
    """Start a Dask cluster that shares no disk with the run; others the run starts itself."""
    if kind != "dask":
        yield None
        return
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    commands = [
        ["scheduler", "--host", "127.0.0.1", "--port", str(port)],
        ["worker", address, "--nworkers", "2", "--nthreads", "1"],
    ]
    with (work / "cluster.log").open("w") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *options, "--no-dashboard"],
                env=environment, cwd=work, stdout=log, stderr=log,
            )
            for what, *options in commands
        ]  # fmt: skip
        try:
            yield address
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(timeout=LIMIT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[list[dict], list[dict], list[str]]:
    workplace = Workplace(tmp_path_factory.mktemp("plain"))
    run = workplace.python(FLOW, "{}")
    assert run.returncode == 0, run.stdout + run.stderr
    return answers(workplace.home / "dpo")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "dask", "ray"])
def test_answers_are_those_of_a_plain_run_though_a_worker_is_killed(kind, plain, server, tmp_path):
    workplace, mark = Workplace(tmp_path), f"{kind}-{os.getpid()}"
    shared = workplace.environment(PREFECT_API_URL=server, TEST_MARK=mark)
    shared["PREFECT_LOGGING_EXTRA_LOGGERS"] = "dpo_pipeline"
    with cluster(kind, tmp_path, shared | {"DPO_PIPELINE_HOME": str(tmp_path / "none")}) as address:
        run = {"task_runner": kind} | ({"address": address} if address else {})
        with (
            (tmp_path / "log").open("w") as log,
            subprocess.Popen(
                [sys.executable, FLOW, json.dumps({"run": run})],
                env=shared, cwd=tmp_path, stdout=log, stderr=log,
            ) as process,
        ):  # fmt: skip

            def told() -> str:
                return (tmp_path / "log").read_text()

            def at_work() -> list[psutil.Process]:
                assert process.poll() is None, told()
                if not [*tmp_path.glob("dpo/ledger/*/*.jsonl")]:
                    return []
                return [p for p in alive(mark) if is_worker(p, kind)]

            wait_for(at_work, told)[0].send_signal(signal.SIGKILL)
            assert process.wait(timeout=3 * LIMIT) == 0, told()
    assert answers(tmp_path / "dpo") == plain
    assert wait_for(lambda: not alive(mark))
    assert not (tmp_path / "none").exists()  # for answers no disk is needed
    (name,) = [path.name for path in (tmp_path / "dpo" / "runs").iterdir()]
    flow_runs = {"flow_runs": {"name": {"any_": [name]}}}
    (flow_run,) = httpx.post(f"{server}/flow_runs/filter", json=flow_runs).json()
    logs = {"logs": {"flow_run_id": {"any_": [flow_run["id"]]}}, "limit": 200}
    lines = [line["message"] for line in httpx.post(f"{server}/logs/filter", json=logs).json()]
    loads = Counter(found[1] for line in lines if (found := re.match(r"process (\d+) loads", line)))
    assert set(loads.values()) == {1}, loads
    assert str(process.pid) not in loads
