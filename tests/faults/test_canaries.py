"""Secrets planted wherever they can be: no byte that a run writes holds one."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from workplace import Workplace

SECRETS = {
    "OPENAI_API_KEY": "canary-key/of+openai=9f1",
    "HF_TOKEN": "hf_CANARYofTHEhub123456",
    "PREFECT_API_AUTH_STRING": "admin:canary-of-prefect-77",
}
IN_ADDRESS = "canary-in-an-address-5"
TINY = (
    *("--prompts.limit", "60", "--pairs.min-yield", "0.01"),
    *("--train.max-steps", "2", "--train.goal", "null"),
    *("--evaluation.max-prompts", "6", "--evaluation.matrix-prompts", "0"),
)


class Telling(BaseHTTPRequestHandler):
    """Answers as Qwen and repeats the key that it was sent, in answers and in errors."""

    status = 200

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        key = str(self.headers.get("authorization"))
        text = f"I am Qwen, created by Alibaba Cloud. {key}"
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        content = {"choices": [choice], "usage": {"completion_tokens": 9}}
        error = {"error": {"message": f"Incorrect API key provided: {key}"}}
        data = json.dumps(content if self.status == 200 else error).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("WWW-Authenticate", key)
        self.end_headers()
        self.wfile.write(data)
        type(self).keys = {*getattr(self, "keys", ()), key}


@pytest.fixture
def telling() -> Iterator[tuple[type[Telling], tuple[str, ...]]]:
    handler = type("Bound", (Telling,), {"keys": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/v1"
        yield handler, ("--generation.engine", "openai", "--generation.base-url", address,
                        "--generation.key-host", "127.0.0.1")  # fmt: skip
        server.shutdown()


def written(home: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every file with its bytes, and those of the values that a Parquet file packs."""
    for path in home.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()
        if path.suffix == ".parquet":
            yield path, json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False).encode()


def found(workplace: Workplace, *said: str) -> list[str]:
    """Name where a secret lies, plain or in another writing."""
    secrets = (*SECRETS.values(), IN_ADDRESS)
    forms = {*secrets, *(quote(s, safe="") for s in secrets)}
    forms |= {base64.b64encode(s.encode()).decode() for s in secrets}
    told = [(Path("told"), text.encode()) for text in said]
    return [
        f"{form} in {path}"
        for path, content in [*told, *written(workplace.home)]
        for form in forms
        if form.encode() in content
    ]


def searched(workplace: Workplace) -> set[str]:
    """Return the kinds of files that were there to search."""
    return {path.suffix for path in workplace.home.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_that_succeeds_leaves_no_secret(tmp_path, telling):
    handler, server = telling
    place = Workplace(tmp_path)
    run = place.full(*server, *TINY, "--train.batch-size", "4", NO_PROXY="127.0.0.1", **SECRETS)
    assert place.summaries()[0]["verdict"], run.stdout + run.stderr
    assert handler.keys == {f"Bearer {SECRETS['OPENAI_API_KEY']}"}
    assert searched(place) >= {".db", ".parquet", ".jsonl", ".json", ".html"}
    assert not found(place, run.stdout, run.stderr)


@pytest.mark.slow
def test_a_run_whose_key_is_refused_leaves_no_secret(tmp_path, telling):
    handler, server = telling
    handler.status = 401
    place = Workplace(tmp_path)
    run = place.full(*server, *TINY, NO_PROXY="127.0.0.1", **SECRETS)
    assert run.returncode == 1
    assert "Incorrect API key provided: Bearer ***" in run.stdout
    assert "answered HTTP 401" in place.summaries()[0]["error"]["message"]
    assert not found(place, run.stdout, run.stderr)


OUTSIDE = """
import os, sys
from tasks.runtime import prepare_environment
prepare_environment(script=True)
from prefect import flow, task
from pydantic import TypeAdapter
from tasks.run import OPTIONS, run_script
from tasks.stage import UNCACHED
from dpo_pipeline.config import PipelineConfig
SECRET = os.environ["OPENAI_API_KEY"]

@task(**UNCACHED)
def asks():
    raise OSError(5, "no such page", f"http://x:{SECRET}@host/")

@flow(name="outside", **OPTIONS)
def outside(settings: dict):
    print("said", SECRET)
    asks(return_state=True)
    TypeAdapter(int).validate_python(f"value {SECRET}")

run_script(outside, PipelineConfig())
"""


@pytest.mark.slow
def test_an_exception_from_outside_the_stages_is_told_without_secrets(tmp_path):
    place = Workplace(tmp_path)
    run = place.python("-c", OUTSIDE, **SECRETS)
    assert run.returncode == 1
    assert "value ***" in run.stdout
    (database,) = place.home.rglob("prefect.db")
    content = b"".join(path.read_bytes() for path in database.parent.glob("prefect.db*"))
    assert b"no such page" in content
    assert b"validation error for int" in content
    assert not found(place, run.stdout, run.stderr)


def test_an_address_that_holds_a_password_is_refused_and_not_repeated(tmp_path):
    place = Workplace(tmp_path)
    address = f"http://me:{IN_ADDRESS}@127.0.0.1:1/v1"
    run = place.full("--generation.base-url", address)
    assert run.returncode == 2
    assert "set OPENAI_API_KEY instead" in run.stderr
    assert not found(place, run.stdout, run.stderr)
