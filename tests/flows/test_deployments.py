"""The deployments of prefect.yaml on a real server, run by a real worker."""

import re

import httpx
import pytest
from prefect_server import wait_for
from workplace import ROOT

NAMES = ["full/starter", "full/smollm2", "full/qwen2.5", "evaluate/nightly", "sweep/starter"]


@pytest.fixture(scope="module")
def deployed(workplace, server) -> str:
    """Register the deployments the way the docs tell."""
    for name in ("cpu", "gpu"):
        pool = workplace.prefect(server, "work-pool", "create", name, "--type", "process")
        assert pool.returncode == 0, pool.stderr
    done = workplace.prefect(server, "--no-prompt", "deploy", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    return server


def found(server: str, name: str) -> dict:
    return httpx.get(f"{server}/deployments/name/{name}").json()


@pytest.mark.parametrize("name", NAMES)
def test_every_deployment_is_described_tagged_and_limited(deployed, name):
    deployment = found(deployed, name)
    assert deployment["description"]
    assert "dpo" in deployment["tags"]
    assert deployment["work_pool_name"] == ("gpu" if "gpu" in deployment["tags"] else "cpu")
    env = deployment["job_variables"]["env"]
    assert {"OMP_NUM_THREADS", "DPO_PIPELINE_RUN_TIMEOUT", "PREFECT_CLIENT_MAX_RETRIES"} <= set(env)
    assert str(ROOT) not in str(deployment)  # of the machine that deployed


def test_schedules_are_on_where_they_can_run(deployed):
    on = {name: [s["active"] for s in found(deployed, name)["schedules"]] for name in NAMES}
    assert on == dict(zip(NAMES, ([True], [True], [False], [False], []), strict=True))


def scheduled(api: str, *states: str) -> list[dict]:
    """Return the runs that a schedule made, in these states."""
    wanted = {"state": {"type": {"any_": states}}, "tags": {"all_": ["auto-scheduled"]}}
    return httpx.post(f"{api}/flow_runs/filter", json={"flow_runs": wanted}).json()


def test_a_schedule_makes_runs(deployed):
    """With SQLAlchemy 2.1 Prefect's scheduler makes none."""
    assert wait_for(lambda: scheduled(deployed, "SCHEDULED"))


@pytest.mark.slow
def test_a_run_that_an_interval_made_is_run_by_a_worker(workplace, first_run, deployed):
    done = workplace.prefect(
        deployed, "--no-prompt", "deploy", "flows.full.full", "--name", "often",
        "--interval", "30", "--pool", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with workplace.worker(deployed):
        (run, *_) = wait_for(lambda: scheduled(deployed, "COMPLETED", "FAILED", "CRASHED"))
    httpx.delete(f"{deployed}/deployments/{run['deployment_id']}")
    assert run["state_name"] == "Completed", run
    assert run["name"] == f"starter-to-deep-qwen-{run['id'][:8]}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--param", "beta=-1"), "beta"),
        (("--param", "btea=1"), "btea"),
        (("--param", 'settings={"train": {"bta": 1}}'), "train"),
        (("--param", 'settings={"generation.base_url": "https://me:word@h/v1"}'), "base_url"),
    ],
)
def test_wrong_parameters_are_refused_when_the_run_is_asked_for(workplace, deployed, options, said):
    run = workplace.prefect(deployed, "deployment", "run", "full/starter", *options)
    assert run.returncode == 1
    assert said in run.stdout + run.stderr


def test_one_value_is_changed_and_a_worker_runs_the_rest_as_deployed(
    workplace, first_run, deployed
):
    # The starter's own number of steps: everything is cached.
    created = workplace.prefect(
        deployed, "deployment", "run", "full/starter", "--param", "max_steps=180",
    )  # fmt: skip
    assert created.returncode == 0, created.stdout + created.stderr
    run_id = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", created.stdout).group()
    worked = workplace.prefect(
        deployed, "worker", "start", "--pool", "cpu", "--run-once",
        "--install-policy", "never",
    )  # fmt: skip
    run = httpx.get(f"{deployed}/flow_runs/{run_id}").json()
    assert run["parameters"] == {"config": "configs/starter.yaml", "max_steps": 180}
    state = run["state"]
    assert state["type"] == "COMPLETED", state["message"] + worked.stdout + worked.stderr
    assert "Gate passed" in state["message"]
    summary = workplace.summaries()[-1]
    assert {s["status"] for s in summary["stages"].values()} == {"cached"}
    assert summary["config"]["train"]["max_steps"] == 180
