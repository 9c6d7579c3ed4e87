"""What tests share: one home folder, one Prefect server, one real run of the default pipeline."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from workplace import Workplace
from xdist.scheduler import LoadScopeScheduling

# Two test processes share two cores: more threads than cores slow small models many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")

START_LIMIT = 120  # seconds a server may take to answer on a loaded machine


class ByFile(LoadScopeScheduling):
    """A file's tests go to one process, with what they share; flows and deployments share a run."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return file.replace("test_deployments.py", "test_flows.py")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def first_run(workplace) -> subprocess.CompletedProcess[str]:
    """Run the default pipeline once, from nothing, without a server."""
    return workplace.full()


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[str]:
    """Start a real Prefect server on loopback; yield its API's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("server")
    api = f"http://127.0.0.1:{port}/api"
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
        env={
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_UI_API_URL": api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        },
        stdout=(home / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + START_LIMIT
        while not _healthy(api):
            assert process.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, "the Prefect server did not come up"
            time.sleep(0.2)
        yield api
    finally:
        process.terminate()
        process.wait()


def _healthy(api: str) -> bool:
    try:
        return httpx.get(f"{api}/health", timeout=2).is_success
    except httpx.TransportError:
        return False
