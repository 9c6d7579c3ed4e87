"""Answers from an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, Ollama.

The server applies its own chat template and whatever decoding defaults it has beyond the
fields sent here; start vLLM with `--generation-config vllm`, so that a repetition penalty
shipped with the model does not decide.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from urllib.parse import urlsplit

import httpx

from dpo_pipeline.answers.records import How, Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.plaintext import scrub
from dpo_pipeline.store.settings import MOST

ATTEMPTS = 6
LONGEST = 1 << 24  # bytes of a response: no answer is as long
LONGEST_TOKEN = 256  # characters
# What reading an answer that is none raises.
_NO_ANSWER = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError)
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
FATAL = {
    401: "set OPENAI_API_KEY to a key of this server",
    403: "set OPENAI_API_KEY to a key of this server that may use this model",
    404: "check generation.base_url (it usually ends in /v1) and generation.served_model",
}


def ask_server(
    requests: Mapping[str, Request], seeds: Mapping[str, int], how: How
) -> Iterator[tuple[str, Response]]:
    """Answer requests, a bounded number at a time; yield each key and its answer as it comes.

    What the server refuses for one request alone, or still fails after patient attempts, has
    finish "error". The key of the server, if it wants one, is read from OPENAI_API_KEY.

    Raises:
        GenerationError: The server cannot be reached, never answers, or refuses the key or the
            model; or the key is none.
    """
    config = how["config"]
    body: dict[str, object] = {"model": config.served(how["model"].name), "frequency_penalty": 0.0}
    body |= {"max_tokens": config.max_new_tokens, "temperature": config.temperature}
    if config.temperature:
        body["top_p"] = config.top_p
    silent = 0  # answers in a row that did not come in time
    with (
        httpx.Client(headers=_authorization(config)) as client,
        ThreadPoolExecutor(config.concurrency) as pool,
    ):
        futures: dict[Future[Response], str] = {}
        for key, request in requests.items():
            one = {"messages": [dict(m) for m in request.messages], "seed": seeds[key]}
            futures[pool.submit(_complete, client, config, body | one)] = key
        try:
            for future in as_completed(futures):
                response = future.result()
                silent = silent + 1 if response.detail == _too_late(config) else 0
                if silent == 2 * config.concurrency:
                    raise GenerationError(
                        f"{config.base_url}: {response.detail}, {silent} times in a row: is the "
                        "model loaded there? Else raise generation.timeout"
                    )
                yield futures[future], response
        finally:
            pool.shutdown(cancel_futures=True)


def _authorization(config: GenerationConfig) -> dict[str, str]:
    secret = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (secret and config.may_have_key()):
        return {}
    if re.search(r"[^!-~]", secret):
        raise GenerationError(
            "OPENAI_API_KEY holds a space, a line break or a sign that no key has: set it anew"
        )
    return {"Authorization": f"Bearer {secret}"}


def _too_late(config: GenerationConfig) -> str:
    return f"no answer within {config.timeout:g} s (generation.timeout)"


def _complete(client: httpx.Client, config: GenerationConfig, body: dict[str, object]) -> Response:
    url = f"{config.base_url}/chat/completions"
    deadline = time.monotonic() + config.timeout
    post = partial(_post, client, url, body, deadline)
    try:
        answered = json.loads(patiently(post, _may_pass, ATTEMPTS, config.timeout))
        choice = answered["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
        if finish not in ("stop", "length") or not isinstance(text, str):
            return Response.failed(f"the answer ended with finish_reason {finish!r}", "refused")
        tokens = int((answered.get("usage") or {}).get("completion_tokens") or 0)
        if not 0 <= tokens <= MOST:
            raise ValueError("usage.completion_tokens is out of range")
        if len(text) > LONGEST_TOKEN * config.max_new_tokens:
            raise ValueError(f"{len(text):,} characters for {config.max_new_tokens} tokens")
        text.encode()  # or it is no Unicode
        return Response(text=scrub(text), finish=finish, tokens=tokens)
    except httpx.ConnectError as error:
        raise GenerationError(
            f"no server at {url}: {error}; start one, or set generation.base_url"
        ) from None
    except httpx.HTTPStatusError as error:
        status, said = error.response.status_code, scrub(error.response.text)[:300]
        if status in FATAL:
            raise GenerationError(
                f"{url} answered HTTP {status} for model {body['model']!r}: {said}; "
                f"{_remedy(status, config)}"
            ) from None
        reason = "generation_failed" if _may_pass(error) else "refused"
        return Response.failed(f"HTTP {status}: {said}", reason)
    except httpx.TimeoutException:
        return Response.failed(_too_late(config))
    except (httpx.TransportError, *_NO_ANSWER) as error:
        return Response.failed(scrub(f"{type(error).__name__}: {error}"))


def _post(client: httpx.Client, url: str, body: dict[str, object], deadline: float) -> bytes:
    """Make one attempt, and read no longer than the deadline and no more than an answer is."""
    left = max(0.1, deadline - time.monotonic())
    content, limits = bytearray(), httpx.Timeout(left, connect=10)
    # Not compressed: what a few bytes unpack to is known when they are unpacked.
    plain = {"Accept-Encoding": "identity"}
    with client.stream("POST", url, json=body, headers=plain, timeout=limits) as response:
        if (packed := response.headers.get("content-encoding", "identity")) != "identity":
            raise ValueError(f"a response packed with {packed}, which was not asked for")
        for part in response.iter_raw():
            content += part
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the answer trickles", request=response.request)
            if len(content) > LONGEST:
                raise ValueError(f"a response of more than {LONGEST >> 20} MB")
    wait = {name: response.headers[name] for name in {"retry-after"} & response.headers.keys()}
    whole = httpx.Response(
        response.status_code, headers=wait, content=bytes(content), request=response.request
    )
    return whole.raise_for_status().content


def _remedy(status: int, config: GenerationConfig) -> str:
    if status in (401, 403) and "OPENAI_API_KEY" in os.environ and not config.may_have_key():
        host = urlsplit(config.base_url).hostname
        return f"OPENAI_API_KEY was not sent, as it may be another's: --generation.key-host {host}"
    return FATAL[status]


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in PASSING
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ReadTimeout)
