"""Answers from an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, Ollama.

The server applies its own chat template and whatever decoding defaults it has beyond the
fields sent here; start vLLM with `--generation-config vllm`, so that a repetition penalty
shipped with the model does not decide.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial

import httpx

from dpo_pipeline.answers.records import How, Request, Response
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.hub.retries import patiently

ATTEMPTS = 6
TIMEOUT = 600.0  # seconds for one answer
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
        GenerationError: The server cannot be reached, or refuses the key or the model.
    """
    secret, config = os.environ.get("OPENAI_API_KEY"), how["config"]
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    body: dict[str, object] = {"model": config.served(how["model"].name), "frequency_penalty": 0.0}
    body |= {"max_tokens": config.max_new_tokens, "temperature": config.temperature}
    if config.temperature:
        body["top_p"] = config.top_p
    with (
        httpx.Client(headers=headers, timeout=httpx.Timeout(TIMEOUT, connect=10.0)) as client,
        ThreadPoolExecutor(config.concurrency) as pool,
    ):
        futures: dict[Future[Response], str] = {}
        for key, request in requests.items():
            one = {"messages": [dict(m) for m in request.messages], "seed": seeds[key]}
            futures[pool.submit(_complete, client, config.base_url, body | one)] = key
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _complete(client: httpx.Client, base_url: str, body: dict[str, object]) -> Response:
    url = f"{base_url}/chat/completions"
    post = partial(client.post, url, json=body)
    try:
        answered = patiently(lambda: post().raise_for_status(), _may_pass, ATTEMPTS).json()
        choice = answered["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
        if finish not in ("stop", "length") or not isinstance(text, str):
            return Response.failed(f"the answer ended with finish_reason {finish!r}", "refused")
        tokens = int((answered.get("usage") or {}).get("completion_tokens") or 0)
        return Response(text=text, finish=finish, tokens=tokens)
    except httpx.ConnectError as error:
        raise GenerationError(
            f"no server at {url}: {error}; start one, or set generation.base_url"
        ) from None
    except httpx.HTTPStatusError as error:
        status, said = error.response.status_code, error.response.text[:300]
        if status in FATAL:
            raise GenerationError(
                f"{url} answered HTTP {status} for model {body['model']!r}: {said}; {FATAL[status]}"
            ) from None
        reason = "generation_failed" if _may_pass(error) else "refused"
        return Response.failed(f"HTTP {status}: {said}", reason)
    except (httpx.TransportError, ValueError, LookupError, TypeError) as error:
        return Response.failed(f"{type(error).__name__}: {error}")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in PASSING
    return isinstance(error, httpx.TransportError)
