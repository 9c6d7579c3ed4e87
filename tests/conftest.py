"""What tests share: one home folder, one Prefect server, one real run of the default pipeline."""

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import reliability
from hub_server import Hub
from prefect_server import Server
from workplace import Workplace
from xdist.scheduler import LoadScopeScheduling

# Two test processes share two cores: more threads than cores slow small models many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")


class ByFile(LoadScopeScheduling):
    """A file's tests go to one process, with what they share; flows and deployments share a run."""

    def _split_scope(self, nodeid: str) -> str:
        return re.sub(r"test_(deployments|lifecycle)\.py", "test_flows.py", nodeid.split("::")[0])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", action="store_true", help="write docs/reliability.md")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(reliability.Table(config.cache))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reliability.mark(config, items)


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
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server.api
    server.stop()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """Start a Hub on loopback, which the real client of this process talks to."""
    with Hub(tmp_path / "hub") as hub:
        hub.connect(monkeypatch)
        yield hub
