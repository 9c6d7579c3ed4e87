"""A call over the network, made again where that may help and nowhere else."""

import math
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.wait import wait_exponential_jitter

T = TypeVar("T")

ATTEMPTS = 5
LONGEST_WAIT = 60.0  # seconds between two attempts, also where the server asks for more
# 409 and 412: somebody else committed in between.
PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call to the Hub may work a little later."""
    from huggingface_hub import errors

    cause = hub_cause(error)
    if isinstance(cause, errors.HfHubHTTPError):
        return cause.response.status_code in PASSING
    lost = errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError
    return cause is not None and not isinstance(cause, lost)


def patiently(
    call: Callable[[], T],
    passing: Callable[[BaseException], bool] = may_pass,
    attempts: int = ATTEMPTS,
    seconds: float = math.inf,
) -> T:
    """Repeat a call while it fails in a way that may pass; raise the last failure as it is.

    No attempt begins later than so many seconds after the first.

    Between two attempts it waits as long as the server asks for, else twice as long each time.
    """
    retry = retry_if_exception(passing)
    stop = stop_after_attempt(attempts) | stop_before_delay(seconds)
    return Retrying(stop=stop, wait=_pause, retry=retry, reraise=True)(call)


def _pause(state: RetryCallState) -> float:
    errors = chain(state.outcome.exception() if state.outcome else None)
    responses = [r for r in (getattr(e, "response", None) for e in errors) if r is not None]
    asked = responses[0].headers.get("retry-after", "") if responses else ""
    seconds = float(asked) if asked.isdigit() else wait_exponential_jitter(1, LONGEST_WAIT)(state)
    return min(seconds, LONGEST_WAIT)


def chain(error: BaseException | None) -> list[BaseException]:
    """List an error and those under it, the outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def hub_cause(error: BaseException | None) -> BaseException | None:
    """Find the Hub's own error under those that other libraries wrap around it."""
    import httpx2
    from huggingface_hub import errors

    kinds: list[type[BaseException]] = [errors.HfHubHTTPError, errors.OfflineModeIsEnabled]
    kinds += [httpx2.TransportError, errors.LocalEntryNotFoundError, ConnectionError]
    return next((e for kind in kinds for e in chain(error) if isinstance(e, kind)), None)
