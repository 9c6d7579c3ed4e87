"""A call to the Hub, made again where that may help and nowhere else."""

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from dpo_pipeline.hub.explanations import PASSING, hub_cause

T = TypeVar("T")

ATTEMPTS = 5


LONGEST_WAIT = 60.0  # seconds between two attempts


def patiently(call: Callable[[], T]) -> T:
    """Repeat a call while it fails in a way that may pass; raise the last failure as it is."""

    def pause(state: RetryCallState) -> float:
        cause = hub_cause(state.outcome.exception() if state.outcome else None)
        response = getattr(cause, "response", None)
        asked = response.headers.get("retry-after", "") if response is not None else ""
        seconds = float(asked) if asked.isdigit() else wait_exponential_jitter(1, 8)(state)
        return min(seconds, LONGEST_WAIT)

    retry, stop = retry_if_exception(may_pass), stop_after_attempt(ATTEMPTS)
    return Retrying(stop=stop, wait=pause, retry=retry, reraise=True)(call)


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call may work a little later."""
    from huggingface_hub import errors

    cause = hub_cause(error)
    if isinstance(cause, errors.HfHubHTTPError):
        return cause.response.status_code in PASSING
    lost = errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError
    return cause is not None and not isinstance(cause, lost)
