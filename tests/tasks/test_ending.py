"""Ctrl-C, SIGTERM and kill -9 end a run, and all that it started."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from workplace import ROOT, Workplace

# The main thread is held up by one that nothing ends.
HELD_UP = """
import sys, threading, time
from pathlib import Path
from tasks.ending import end_on_signals, last_words
end_on_signals()
last_words.append(lambda said: Path(sys.argv[1]).write_text(said))
held = threading.Thread(target=threading.Event().wait)
held.start()
try:
    print("ready", flush=True)
    threading.Event().wait()
finally:
    held.join()
"""
LAST = {"sort": "START_TIME_DESC", "limit": 1}
TWO_LINES = ["what was finished is kept.", "Run the same command again to go on."]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_held_up_ends_in_two_lines(tmp_path, number):
    words = tmp_path / "words"
    process = subprocess.Popen(
        [sys.executable, "-c", HELD_UP, str(words)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 128 + number
    assert (out, err.split(": ")[-1].splitlines()) == ("", TWO_LINES)
    assert words.read_text() in ("Interrupted", "Terminated")


@pytest.fixture
def silent() -> Iterator[str]:
    """Yield the address of a server that accepts and never answers."""
    over = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            over.wait()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    over.set()
    server.shutdown()
    server.server_close()


def started(workplace: Workplace, silent: str, **extra: str) -> subprocess.Popen[str]:
    """Start a run, and wait until it waits for a server."""
    asking = ("--generation.engine", "openai", "--generation.base-url", silent)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "flows" / "full.py"), *asking],
        env=workplace.environment(**extra), cwd=workplace.home, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not process.stdout.readline().startswith("model  "):
        assert process.poll() is None, process.stderr.read()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_ends_with_its_server_whatever_it_waits_for(tmp_path, silent, number):
    workplace = Workplace(tmp_path)
    process = started(workplace, silent)
    (server,) = children_of(process.pid)
    process.send_signal(number)
    out, err = process.communicate()
    wait_for_end(server)
    if number == signal.SIGKILL:
        assert not list(tmp_path.glob("dpo/runs/*"))  # no empty folder
        return
    assert process.returncode == 128 + number
    assert out == ""
    assert err.split(": ")[-1].splitlines() == TWO_LINES
    (summary,) = workplace.summaries()
    assert summary["error"]["message"]
    assert summary["stages"]["model"]["status"] == "built"


@pytest.mark.slow
def test_a_run_that_is_cancelled_ends_and_says_so(tmp_path, silent, server):
    workplace = Workplace(tmp_path)
    process = started(workplace, silent, PREFECT_API_URL=server)
    (run,) = httpx.post(f"{server}/flow_runs/filter", json=LAST).json()
    asked = {"state": {"type": "CANCELLING"}}
    httpx.post(f"{server}/flow_runs/{run['id']}/set_state", json=asked).raise_for_status()
    process.communicate()
    assert process.returncode != 0
    (summary,) = workplace.summaries()
    assert summary["error"]["message"] == "Cancelled"
    ended = httpx.get(f"{server}/flow_runs/{run['id']}").json()
    assert ended["state"]["type"] == "CANCELLED"


def children_of(parent: int) -> list[int]:
    return [
        int(task.parent.name)
        for task in Path("/proc").glob("[0-9]*/stat")
        if int(task.read_text().rpartition(")")[2].split()[1]) == parent
    ]


def wait_for_end(process: int) -> None:
    while Path(f"/proc/{process}").exists():
        if "Z" in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]:
            return
        threading.Event().wait(0.05)
