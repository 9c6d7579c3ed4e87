"""Answers from an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, Ollama.

The server applies its own chat template and whatever decoding defaults it has beyond the
fields sent here; start vLLM with `--generation-config vllm`, so that a repetition penalty
shipped with the model does not decide.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from dpo_pipeline.config import GenerationConfig
from dpo_pipeline.errors import GenerationError

logger = logging.getLogger("dpo_pipeline.server")

ATTEMPTS = 6
FIRST_WAIT = 1.0  # seconds before the second attempt, doubled each time
LONGEST_WAIT = 60.0  # seconds, also for what the server asks for
TIMEOUT = 600.0  # seconds for one answer
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
FATAL = {
    401: "set OPENAI_API_KEY to a key of this server",
    403: "set OPENAI_API_KEY to a key of this server that may use this model",
    404: "check generation.base_url (it usually ends in /v1) and generation.served_model",
}


def complete(
    bodies: Mapping[str, Mapping[str, Any]], config: GenerationConfig
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Send chat completions, a bounded number at a time; yield answers as they come.

    Args:
        bodies: Key -> body of the request.
        config: Address and concurrency. The key, if any, is read from OPENAI_API_KEY.
    Returns:
        Pairs of key and text, finish, tokens, reason. What the server refuses for one request
        alone, or still fails after patient attempts, has finish "error" and a reason.
    Raises:
        GenerationError: The server cannot be reached, or refuses the key or the model.
    """
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = config.base_url.rstrip("/") + "/chat/completions"
    with (
        httpx.Client(headers=headers, timeout=httpx.Timeout(TIMEOUT, connect=10.0)) as client,
        ThreadPoolExecutor(config.concurrency) as pool,
    ):
        futures = {pool.submit(_complete, client, url, body): k for k, body in bodies.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _complete(client: httpx.Client, url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    def post() -> httpx.Response:
        return client.post(url, json=dict(body)).raise_for_status()

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=_pause,
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        return _read(retrying(post))
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
        return _failed(f"HTTP {status}: {said}")
    except (httpx.TransportError, ValueError, LookupError, TypeError) as error:
        return _failed(f"{type(error).__name__}: {error}")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in PASSING
    return isinstance(error, httpx.TransportError)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    response = getattr(error, "response", None)
    asked = response.headers.get("retry-after", "") if response is not None else ""
    backoff = wait_exponential_jitter(initial=FIRST_WAIT, max=LONGEST_WAIT, jitter=FIRST_WAIT)
    return min(float(asked) if asked.isdigit() else backoff(state), LONGEST_WAIT)


def _read(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    choice = body["choices"][0]
    text, finish = choice["message"]["content"], choice["finish_reason"]
    if finish not in ("stop", "length") or not isinstance(text, str):
        return _failed(f"the server ended the answer with finish_reason {finish!r}")
    tokens = int((body.get("usage") or {}).get("completion_tokens") or 0)
    return {"text": text, "finish": finish, "tokens": tokens}


def _failed(reason: str) -> dict[str, Any]:
    return {"text": "", "finish": "error", "tokens": 0, "reason": reason}
