"""Answers of an OpenAI-compatible server."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from asking import GREEDY, HERE, REQUESTS, SYSTEMS, made, write_prompts

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.collecting import collect_responses
from dpo_pipeline.answers.records import Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError

USAGE = '{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": {%s}}'
FULL = '{"choices": [{"message": {"content": "%s"}, "finish_reason": "stop"}]}'
BOMB = gzip.compress(gzip.compress(bytes(10**8)))  # 100 MB in a few hundred bytes
RAW = {
    "bomb": BOMB,
    "half a sign": (FULL % r"\ud800").encode(),
    "a book": (FULL % ("x" * (1 << 20))).encode(),
    "not json": b"<html>",
    "deep": b"[" * 100_000,
    "huge usage": (USAGE % f'"completion_tokens": {10**400}').encode(),
    "endless usage": (USAGE % '"completion_tokens": Infinity').encode(),
    "usage of words": (USAGE % '"completion_tokens": "many"').encode(),
}


class Served(BaseHTTPRequestHandler):
    """Chat completions that echo; `faults` are taken first, one a request."""

    protocol_version = "HTTP/1.1"
    faults: list[tuple[int, dict[str, str]] | str]
    seen: list[dict]
    busy = peak = 0
    lock = threading.Lock()
    over: threading.Event

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.lock:
            self.seen.append({**body, "key": self.headers.get("authorization")})
            fault = self.faults.pop(0) if self.faults else None
            type(self).busy += 1
            type(self).peak = max(self.peak, self.busy)
        try:
            self.reply(body, fault)
        finally:
            with self.lock:
                type(self).busy -= 1

    def reply(self, body: dict, fault: tuple[int, dict[str, str]] | str | None) -> None:
        if fault == "cut":
            self.close_connection = True
            self.connection.close()
            return
        if fault in ("hang", "trickle"):
            self.stall(trickle=fault == "trickle")
            return
        status, headers = fault if isinstance(fault, tuple) else (200, {})
        text = f"You asked: {body['messages'][-1]['content']}"
        choice = {"message": {"content": text}, "finish_reason": fault or "stop"}
        content = {"choices": [choice], "usage": {"completion_tokens": 7}}
        # Some servers repeat the key, and a hostile one what a terminal acts on.
        error = {"error": f"no luck with {self.headers.get('authorization')}"}
        data = json.dumps(content if status == 200 else error).encode() + b"\x1b[2J" * (
            status != 200
        )
        if isinstance(fault, str) and fault in RAW:
            data = RAW[fault]
        if data == BOMB:
            headers = {"Content-Encoding": "gzip, gzip"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def stall(self, *, trickle: bool) -> None:
        """Accept, and never come to an end."""
        if trickle:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
        while not self.over.wait(0.05):
            if trickle:
                self.wfile.write(b" ")


@pytest.fixture
def served(monkeypatch):
    handler = type("Bound", (Served,), {"faults": [], "seen": [], "over": threading.Event()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler.config = GenerationConfig(
        system_prompts=SYSTEMS,
        engine="openai",
        base_url=f"http://127.0.0.1:{server.server_port}/v1",
        served_model="echo",
        max_new_tokens=24,
        concurrency=3,
    )
    yield handler
    handler.over.set()
    server.shutdown()
    server.server_close()


def test_a_server_is_asked_with_explicit_decoding_and_kept_in_the_ledger(ref, tmp_path, served):
    found = answer(ref, REQUESTS, model=HERE, config=served.config, ledger=tmp_path)
    assert found[3] == Response(
        text=f"You asked: {REQUESTS[3].messages[-1]['content']}", finish="stop", tokens=7
    )
    assert {(b["model"], b["max_tokens"], b["temperature"]) for b in served.seen} == {
        ("echo", 24, 0.0)
    }
    assert {b["key"] for b in served.seen} == {None}
    assert 1 <= served.peak <= 3
    assert made(ref, REQUESTS, tmp_path, served.config) == 0
    other = served.config.model_copy(update={"served_model": "other"})
    assert made(ref, REQUESTS, tmp_path, other) == 24
    assert made(ref, REQUESTS, tmp_path, GREEDY) == 24


def test_each_draw_has_its_own_seed(ref, tmp_path, served):
    config = served.config.model_copy(update={"temperature": 0.7, "top_p": 0.9, "samples": 2})
    requests = [Request(REQUESTS[0].messages, sample) for sample in (0, 1)]
    answer(ref, requests, model=HERE, config=config, ledger=tmp_path)
    assert len({body["seed"] for body in served.seen}) == 2
    assert {body["top_p"] for body in served.seen} == {0.9}


@pytest.mark.parametrize(
    "fault", [(429, {"Retry-After": "1"}), (503, {}), (500, {}), "cut"], ids=str
)
def test_what_may_pass_is_tried_again(ref, tmp_path, served, fault):
    served.faults = [fault, fault]
    found = answer(ref, REQUESTS[:2], model=HERE, config=served.config, ledger=tmp_path)
    assert [r.finish for r in found] == ["stop", "stop"]
    assert len(served.seen) == 4


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        ((400, {}), "refused HTTP 400.*no luck"),
        ("content_filter", "refused .*finish_reason 'content_filter'"),
        ("not json", "generation_failed JSONDecodeError"),
        ("deep", "generation_failed RecursionError"),
        ("huge usage", "generation_failed ValueError: usage.completion_tokens is out of range"),
        ("endless usage", "generation_failed OverflowError"),
        ("usage of words", "generation_failed ValueError"),
        ("bomb", "generation_failed ValueError: a response packed with gzip, gzip"),
        ("half a sign", "generation_failed UnicodeEncodeError"),
        ("a book", "generation_failed ValueError: 1,048,576 characters for 24 tokens"),
    ],
    ids=str,
)
def test_what_the_server_refuses_fails_alone_and_at_once(ref, tmp_path, served, fault, detail):
    served.faults = [fault]
    config = served.config.model_copy(update={"concurrency": 1})
    found = answer(ref, REQUESTS[:3], model=HERE, config=config, ledger=tmp_path)
    assert [r.finish for r in found] == ["error", "stop", "stop"]
    assert re.search(detail, f"{found[0].reason} {found[0].detail}")
    assert len(served.seen) == 3
    assert made(ref, REQUESTS[:3], tmp_path, config) == 1


def test_failures_that_may_pass_are_counted_and_asked_again(ref, tmp_path, served):
    config = served.config.model_copy(update={"concurrency": 1})
    prompts = write_prompts(tmp_path / "prompts.parquet", 3)
    counts = []
    for served.faults in ([(400, {}), *[(503, {})] * 6], [(400, {})], []):
        found = collect_responses(
            ref, prompts, model=HERE, config=config, ledger=tmp_path / "ledger", out=tmp_path
        )
        counts.append((found.rows, found.error, found.unfinished))
    assert counts == [(6, 2, 1), (6, 1, 0), (6, 0, 0)]


def test_a_fault_that_stays_fails_after_patient_attempts(ref, tmp_path, served):
    served.faults = [(503, {})] * 6
    config = served.config.model_copy(update={"concurrency": 1})
    found = answer(ref, REQUESTS[:2], model=HERE, config=config, ledger=tmp_path)
    assert [r.finish for r in found] == ["error", "stop"]
    assert "HTTP 503" in found[0].detail


@pytest.mark.parametrize(("status", "remedy"), [(401, "OPENAI_API_KEY"), (404, "served_model")])
def test_a_refused_key_or_model_stops_at_once_and_keeps_what_was_had(
    ref, tmp_path, served, status, remedy, monkeypatch
):
    secret = "sk-not-to-be-seen"
    monkeypatch.setenv("OPENAI_API_KEY", f"{secret}\n")
    config = served.config.model_copy(update={"key_host": "127.0.0.1"})
    made(ref, REQUESTS[:2], tmp_path, config)
    served.faults = [(status, {})] * 50
    with pytest.raises(GenerationError, match=remedy) as error:
        answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)
    assert served.seen[0]["key"] == f"Bearer {secret}"
    assert len(served.seen) < 12
    assert "no luck with Bearer ***" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert all(secret not in p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    served.faults = []
    assert made(ref, REQUESTS, tmp_path, config) == 22


def test_an_answer_that_repeats_the_key_is_kept_without_it(ref, tmp_path, served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-a-key")
    requests = [Request(({"role": "user", "content": "Say canary-of-a-key"},))]
    (found,) = answer(ref, requests, model=HERE, config=served.config, ledger=tmp_path)
    assert found.text == "You asked: Say ***"


def test_a_key_goes_to_its_own_host_alone(ref, tmp_path, served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-a-key")
    served.faults = [(401, {})] * 9
    with pytest.raises(GenerationError, match=r"was not sent.*--generation\.key-host 127\.0\.0\.1"):
        answer(ref, REQUESTS, model=HERE, config=served.config, ledger=tmp_path)
    assert {body["key"] for body in served.seen} == {None}
    own = GenerationConfig(base_url="https://api.openai.com/v1")
    assert own.may_have_key()
    for url in ("http://api.openai.com/v1", "https://api.openai.com.evil.example/v1"):
        assert not own.model_copy(update={"base_url": url}).may_have_key()


def test_a_key_over_two_lines_is_refused_unseen(ref, tmp_path, served, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-a\nkey-canary")
    config = served.config.model_copy(update={"key_host": "127.0.0.1"})
    with pytest.raises(GenerationError, match="OPENAI_API_KEY holds a space") as error:
        answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)
    assert "canary" not in f"{error.value} {error.value.__cause__}"


@pytest.mark.parametrize("how", ["hang", "trickle"])
def test_a_server_that_never_answers_is_given_up(ref, tmp_path, served, how):
    config = served.config.model_copy(update={"timeout": 0.3, "concurrency": 2})
    served.faults = [how] * 50
    with pytest.raises(GenerationError, match=r"no answer within 0\.3 s .* 4 times in a row"):
        answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)
    assert len(served.seen) < 9
    served.faults = [how]
    found = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)
    assert sorted(r.finish for r in found)[:2] == ["error", "stop"]


def test_a_server_that_is_not_there_says_so(ref, tmp_path, served):
    config = served.config.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    with pytest.raises(GenerationError, match=r"no server at http://127\.0\.0\.1:9/v1"):
        answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)


@pytest.mark.slow
def test_a_real_server_gives_the_answers_of_the_model(ref, tmp_path):
    pytest.importorskip("openai", reason="`transformers serve` needs it")
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as probe:
        port = probe.server_port
    command = ["-m", "transformers.cli.transformers", "serve", str(ref.path), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [sys.executable, *command, "--port", str(port)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        alive(f"http://127.0.0.1:{port}/health", process)
        config = GREEDY.model_copy(
            update={
                "engine": "openai",
                "base_url": f"http://127.0.0.1:{port}/v1",
                "served_model": str(ref.path),
            }
        )
        found = answer(ref, REQUESTS, model=HERE, config=config, ledger=tmp_path)
    finally:
        process.terminate()
        process.wait()
    expected = answer(ref, REQUESTS, model=HERE, config=GREEDY, ledger=tmp_path)
    # This server strips the spaces around an answer.
    assert [(r.text, r.finish) for r in found] == [(r.text.strip(), r.finish) for r in expected]


def alive(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            if httpx.get(url, timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
