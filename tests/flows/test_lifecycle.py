"""Runs when something goes away or fails: retry, cancel, outage, death, time-outs."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from prefect_server import Server, wait_for
from workplace import ROOT, Workplace

pytestmark = pytest.mark.slow

AWAY = 80  # seconds; Prefect by itself gives up after about 60
LONG = {"train.max_steps": 20_000, "train.save_steps": 20, "train.goal": None}
QUICK = {"evaluation.max_prompts": 10, "evaluation.matrix_prompts": 0}


@pytest.fixture(scope="module")
def server(workplace, tmp_path_factory) -> Iterator[Server]:
    """A server of this module's own, that goes away, with the deployments."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    for command in (
        ["work-pool", "create", "cpu", "--type", "process"],
        ["work-pool", "create", "gpu", "--type", "process"],
        ["--no-prompt", "deploy", "--all"],
    ):
        done = workplace.prefect(server.api, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    yield server
    server.stop()


@pytest.fixture
def worker(workplace, first_run, server) -> Iterator[subprocess.Popen[str]]:
    with workplace.worker(server.api) as process:
        yield process


def ask_for_run(api: str, settings: dict[str, object] = QUICK) -> str:
    """Ask for a run of the deployment, and return its id."""
    found = httpx.get(f"{api}/deployments/name/full/starter").json()
    asked = {"parameters": {"settings": QUICK | settings}, "state": {"type": "SCHEDULED"}}
    path = f"{api}/deployments/{found['id']}/create_flow_run"
    return httpx.post(path, json=asked).json()["id"]


def state(api: str, run: str) -> dict:
    return httpx.get(f"{api}/flow_runs/{run}").json()["state"]


def wait_for_end(api: str, run: str) -> dict:
    ends = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
    wait_for(lambda: state(api, run)["type"] in ends, lambda: str(state(api, run)))
    return state(api, run)


def log_of(api: str, run: str) -> str:
    wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
    return "\n".join(row["message"] for row in httpx.post(f"{api}/logs/filter", json=wanted).json())


def progress(api: str, run: str) -> float:
    """Return the percentage that the artifact of the training shows; 0: there is none."""
    wanted = {
        "flow_runs": {"id": {"any_": [run]}},
        "artifacts": {"key": {"any_": ["train-progress"]}},
    }
    shown = httpx.post(f"{api}/artifacts/filter", json=wanted).json()
    return max((artifact["data"] for artifact in shown), default=0.0)


def processes(workplace: Workplace, words: str) -> list[int]:
    """Return the processes of this workplace whose command line has these words."""
    home, found = str(workplace.home).encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            ours = home in (folder / "environ").read_bytes()
        except OSError:
            continue
        if ours and words.encode() in command:
            found.append(int(folder.name))
    return found


def trainers(workplace: Workplace) -> list[int]:
    return processes(workplace, "-m dpo_pipeline.training.")


def error_of(workplace: Workplace, run: str) -> str:
    """Return why a run ended, as its summary says."""
    (summary,) = (one for one in workplace.summaries() if one["run_id"] == run)
    return summary["error"]["message"]


def cancel(api: str, run: str) -> None:
    """Cancel a run the way the UI does."""
    asked = {"state": {"type": "CANCELLING"}}
    httpx.post(f"{api}/flow_runs/{run}/set_state", json=asked).raise_for_status()


def test_a_server_that_is_away_costs_nothing_and_then_a_run_can_be_cancelled(
    workplace, server, worker
):
    run = ask_for_run(server.api, LONG)
    wait_for(lambda: progress(server.api, run))
    (trainer,) = trainers(workplace)
    server.stop()
    time.sleep(AWAY)
    server.start()
    shown = progress(server.api, run)
    wait_for(lambda: progress(server.api, run) > shown)
    assert trainers(workplace) == [trainer]
    assert state(server.api, run)["type"] == "RUNNING"
    cancel(server.api, run)
    wait_for(lambda: not trainers(workplace))
    assert wait_for_end(server.api, run)["type"] == "CANCELLED"


def test_a_run_whose_worker_is_gone_goes_on_and_can_be_cancelled(workplace, server, worker):
    run = ask_for_run(server.api, LONG)
    (trainer,) = wait_for(lambda: trainers(workplace))
    worker.kill()
    worker.wait()
    wait_for(lambda: progress(server.api, run))
    assert trainers(workplace) == [trainer]
    cancel(server.api, run)
    wait_for(lambda: not processes(workplace, "prefect.engine"))
    assert not trainers(workplace)
    assert wait_for_end(server.api, run)["type"] == "CANCELLED"
    assert error_of(workplace, run) == "Cancelled"


def test_a_run_whose_machine_died_is_found_and_a_retry_goes_on_where_it_was(
    workplace, server, worker, tmp_path
):
    shipped = yaml.safe_load((ROOT / "deploy" / "automations" / "zombies.yaml").read_text())
    soon = tmp_path / "soon.yaml"
    soon.write_text(yaml.safe_dump(shipped | {"trigger": shipped["trigger"] | {"within": 45}}))
    made = workplace.prefect(server.api, "automation", "create", "--from-file", str(soon))
    assert made.returncode == 0, made.stdout + made.stderr
    run = ask_for_run(server.api, LONG | {"train.max_steps": 400})
    work = workplace.home / "dpo" / "work"
    wait_for(lambda: list(work.glob("*/checkpoints/checkpoint-60")))
    for process in (worker.pid, *processes(workplace, "prefect.engine")):
        os.kill(process, signal.SIGKILL)
    wait_for(lambda: not trainers(workplace))
    assert state(server.api, run)["type"] == "RUNNING"
    assert wait_for_end(server.api, run)["type"] == "CRASHED"
    again = workplace.prefect(server.api, "flow-run", "retry", run)
    assert again.returncode == 0, again.stdout + again.stderr
    with workplace.worker(server.api):
        ended = wait_for_end(server.api, run)
    assert ended["name"] in ("Completed", "GateFailed"), ended
    assert log_of(server.api, run).count("step 20 of 400: ") == 1


def test_a_gate_that_fails_is_the_state_of_its_run_and_a_retry_says_so_again(
    workplace, server, worker
):
    run = ask_for_run(server.api, {"gate.kl": 1e-9})
    ended = wait_for_end(server.api, run)
    assert ended["name"] == "GateFailed"
    assert "KL to the reference is " in ended["message"]
    assert "must be ≤ 1e-09" in ended["message"]
    told = log_of(server.api, run) + (workplace.home / "worker.log").read_text()
    assert "Traceback" not in told
    assert "unexpected exception" not in told
    folder = Path(workplace.summaries()[-1]["paths"]["summary"]).parent
    assert folder.name == f"starter-to-deep-qwen-{run[:8]}"
    earlier = folder / "publish"
    earlier.mkdir()
    again = workplace.prefect(server.api, "flow-run", "retry", run)
    assert again.returncode == 0, again.stdout + again.stderr
    assert wait_for_end(server.api, run)["name"] == "GateFailed"
    assert not earlier.exists()
    assert {s["status"] for s in workplace.summaries()[-1]["stages"].values()} == {"cached"}


def test_runs_of_a_deployment_queue(workplace, server, worker):
    first = ask_for_run(server.api, LONG)
    wait_for(lambda: trainers(workplace))
    second = ask_for_run(server.api)
    wait_for(lambda: progress(server.api, first))
    assert state(server.api, second)["type"] == "SCHEDULED"
    cancel(server.api, first)
    assert wait_for_end(server.api, second)["type"] in ("COMPLETED", "FAILED")


@pytest.mark.parametrize("limit", ["DPO_PIPELINE_STAGE_TIMEOUT", "DPO_PIPELINE_RUN_TIMEOUT"])
def test_what_takes_too_long_is_ended_with_its_child(workplace, first_run, server, limit):
    endless = ("--train.max-steps", "20000", "--train.goal", "null")
    run = workplace.full(*endless, PREFECT_API_URL=server.api, **{limit: "25"})
    assert run.returncode == 1, run.stdout + run.stderr
    assert "timed out after 25" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    assert "timed out after 25" in workplace.summaries()[-1]["error"]["message"]
    assert not trainers(workplace)
