"""`make server`: a server that answers who knows its auth string, and no page of another origin."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from workplace import ROOT, Workplace

pytestmark = pytest.mark.slow

FOREIGN = {"Origin": "https://evil.example"}


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Iterator[tuple[str, Path, str]]:
    """Start the script; yield its address, its Prefect home and what it printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    work = Workplace(tmp_path_factory.mktemp("home"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = subprocess.Popen(
        [str(ROOT / "scripts" / "server"), str(port)],
        env=work.environment(PATH=path),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in script.stdout:
            lines.append(line)
            if "Ctrl-C stops" in line:
                break
        yield f"http://127.0.0.1:{port}", work.home / "prefect", "".join(lines)
    finally:
        script.send_signal(signal.SIGINT)
        assert script.wait(60) != 0


def exported(printed: str) -> str:
    """Read the auth string as a shell does that runs the printed line."""
    line = re.search(r"export PREFECT_API_AUTH_STRING=.*", printed)[0]
    done = subprocess.run(
        ["sh", "-c", f'{line}; printf %s "$PREFECT_API_AUTH_STRING"'],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_it_answers_only_who_has_the_string_that_it_tells_how_to_export(started):
    address, _, printed = started
    read = f"{address}/api/block_documents/filter"
    auth = exported(printed)
    assert len(auth) > 40
    assert httpx.post(read, json={}).status_code == 401
    assert httpx.post(read, json={}, auth=("admin", "guess")).status_code == 401
    assert httpx.post(read, json={}, auth=tuple(auth.split(":"))).status_code == 200
    pools = httpx.post(f"{address}/api/work_pools/filter", json={}, auth=tuple(auth.split(":")))
    assert {pool["name"] for pool in pools.json()} >= {"cpu", "gpu"}
    made = httpx.post(f"{address}/api/automations/filter", json={}, auth=tuple(auth.split(":")))
    assert [automation["name"] for automation in made.json()] == ["zombies"]


def test_the_string_is_kept_for_its_owner_and_never_printed(started):
    _, home, printed = started
    (kept,) = (p for p in home.iterdir() if "auth" in p.name)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert exported(printed) not in printed


def test_no_page_of_another_origin_may_read_it(started):
    address, *_ = started
    ask = {**FOREIGN, "Access-Control-Request-Method": "POST"}
    for answer in (
        httpx.options(f"{address}/api/block_documents/filter", headers=ask),
        httpx.get(f"{address}/api/health", headers=FOREIGN),
    ):
        assert "access-control-allow-origin" not in answer.headers
    own = httpx.get(f"{address}/api/health", headers={"Origin": address})
    assert own.headers["access-control-allow-origin"] == address
