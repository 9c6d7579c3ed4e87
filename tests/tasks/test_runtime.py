"""What is read from the environment; and Prefect's own server for one run answers it only."""

import json

import pytest
from disk_faults import barred, obeying_modes
from workplace import Workplace

from tasks.runtime import time_limit

PROBE = """
from tasks.runtime import prepare_environment
prepare_environment(script=True)
import json
import os
import httpx
from prefect import flow, get_client
from pydantic import BaseModel
from tasks.run import run_script

class Nothing(BaseModel):
    pass

@flow
def probe(settings: dict):
    api = str(get_client(sync_client=True).api_url).rstrip("/")
    foreign = {"Origin": "https://evil.example"}
    stranger = httpx.post(f"{api}/block_documents/filter", json={}, headers=foreign)
    auth = httpx.BasicAuth(*os.environ["PREFECT_API_AUTH_STRING"].split(":"))
    own = httpx.post(f"{api}/block_documents/filter", json={}, headers=foreign, auth=auth)
    allowed = [r.headers.get("access-control-allow-origin") for r in (stranger, own)]
    print(json.dumps([stranger.status_code, own.status_code, *allowed]))

run_script(probe, Nothing())
"""


def test_the_temporary_server_answers_its_own_process_only(workplace):
    run = workplace.python("-c", PROBE)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [401, 200, None, None]
    assert "Traceback" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("file", ["", "prefect.db"])
def test_a_temporary_server_that_cannot_write_is_told(tmp_path, file):
    place = Workplace(tmp_path)
    home = tmp_path / "prefect"
    home.mkdir()
    (home / file).touch()
    with barred(home / file, 0o500 if not file else 0):
        run = obeying_modes("-c", PROBE, **place.environment())
    assert run.returncode == 1
    told = run.stderr.splitlines()[-1]
    assert told.startswith("StoreError: Prefect's temporary server does not start: ")
    assert f"room in {home} and that you may write there, or set PREFECT_HOME" in told
    assert file or "Permission denied" in told


def test_a_time_limit_is_a_number_of_seconds_or_none(monkeypatch):
    monkeypatch.delenv("LIMIT", raising=False)
    assert time_limit("LIMIT") is None
    monkeypatch.setenv("LIMIT", "90")
    assert time_limit("LIMIT") == 90


@pytest.mark.parametrize("value", ["", "an hour", "0", "-1", "nan"])
def test_another_time_limit_is_refused(monkeypatch, value):
    monkeypatch.setenv("LIMIT", value)
    with pytest.raises(SystemExit, match=f"LIMIT is '{value}': give a number of seconds"):
        time_limit("LIMIT")
