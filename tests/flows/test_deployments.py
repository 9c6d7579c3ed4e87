"""The deployment of prefect.yaml on a real server, run by a real worker."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from form import unchanged
from workplace import ROOT, Workplace

from dpo_pipeline.config import PipelineConfig


def prefect(workplace: Workplace, server: str, *args: str) -> subprocess.CompletedProcess[str]:
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "prefect", *args],
        env=workplace.environment(PREFECT_API_URL=server, PATH=binaries),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def deployed(workplace, server) -> str:
    """Register the deployments the way the README tells."""
    pool = prefect(workplace, server, "work-pool", "create", "dpo-pool", "--type", "process")
    assert pool.returncode == 0, pool.stderr
    done = prefect(workplace, server, "--no-prompt", "deploy", "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    return server


def test_the_deployment_is_daily_alone_and_described(deployed):
    found = httpx.get(f"{deployed}/deployments/name/full/starter").json()
    assert [s["schedule"]["cron"] for s in found["schedules"]] == ["0 4 * * *"]
    assert found["global_concurrency_limit"]["limit"] == 1
    schema = found["parameter_openapi_schema"]
    train = schema["definitions"]["TrainConfig"]["properties"]
    assert all(field.get("description") for field in train.values())


def test_it_leaves_every_setting_at_its_default():
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert ["parameters" in deployment for deployment in declared["deployments"]] == [False]


def form(server: str) -> dict:
    """Return what the deployment's form sends when nobody changes it."""
    found = httpx.get(f"{server}/deployments/name/full/starter").json()
    assert found["parameters"] == {}
    return unchanged(found["parameter_openapi_schema"])


def test_its_form_shows_the_default_configuration(deployed):
    assert PipelineConfig.model_validate(form(deployed)["config"]) == PipelineConfig()


def test_wrong_parameters_are_refused_when_the_run_is_asked_for(workplace, deployed):
    run = prefect(
        workplace, deployed, "deployment", "run", "full/starter",
        "--params", '{"config": {"train": {"beta": -1}}}',
    )  # fmt: skip
    assert run.returncode == 1
    assert "beta" in run.stdout + run.stderr


def test_a_worker_runs_its_unchanged_form_to_the_end(workplace, first_run, deployed):
    created = prefect(
        workplace, deployed, "deployment", "run", "full/starter",
        "--params", json.dumps(form(deployed)),
    )  # fmt: skip
    assert created.returncode == 0, created.stdout + created.stderr
    run_id = re.search(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", created.stdout).group()
    worked = prefect(
        workplace, deployed, "worker", "start", "--pool", "dpo-pool", "--run-once",
        "--install-policy", "never",
    )  # fmt: skip
    state = httpx.get(f"{deployed}/flow_runs/{run_id}").json()["state"]
    assert state["type"] == "COMPLETED", state["message"] + worked.stdout + worked.stderr
    assert "Gate passed" in state["message"]
    stages = workplace.summaries()[-1]["stages"]
    assert {s["status"] for s in stages.values()} == {"cached"}
