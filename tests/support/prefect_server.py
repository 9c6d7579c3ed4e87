"""A real Prefect server on loopback, which can go away and come back."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

LIMIT = 900  # seconds that anything may take on a loaded machine


class Server:
    """A server with a database of its own under `home`; `api` is its address."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home, self.api = home, f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(self.port)],
            env={
                **os.environ,
                "PREFECT_HOME": str(self.home),
                "PREFECT_SERVER_UI_API_URL": self.api,
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "DO_NOT_TRACK": "1",
            },
            stdout=(self.home / "log").open("w"),
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(self._healthy, lambda: (self.home / "log").read_text())
        except AssertionError:
            self.stop()
            raise

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _healthy(self) -> bool:
        assert self.process.poll() is None, (self.home / "log").read_text()
        try:
            return httpx.get(f"{self.api}/health", timeout=2).is_success
        except httpx.TransportError:
            return False


def wait_for(happened: Callable[[], Any], told: Callable[[], str] = str) -> Any:
    """Wait until something is true, and return it; `told` says how things stand if it is not."""
    deadline = time.monotonic() + LIMIT
    while not (found := happened()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)
    return found
