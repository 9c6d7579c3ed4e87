"""Reading from the Hugging Face Hub: a revision becomes a commit, an error says what to do.

Reads go through `ask`, which waits and tries again where that may help (a dropped connection,
a rate limit, a busy server) and nowhere else.
"""

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from dpo_pipeline.errors import DataError, ModelError

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

RepoType = Literal["model", "dataset"]
T = TypeVar("T")

ATTEMPTS = 5
LONGEST_WAIT = 60.0  # seconds between two attempts
TIMEOUT = 120.0  # seconds without a byte
# 409 and 412: somebody else committed in between.
PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")

log = logging.getLogger("dpo_pipeline.hub")


def masked(text: str, token: str | None = None) -> str:
    """Hide the token, and whatever looks like one."""
    return TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)


def resolve_revision(repo_id: str, repo_type: RepoType, revision: str | None = None) -> str:
    """Resolve a branch or tag to the commit that every later read uses.

    Offline, it is the commit that the local cache holds for that branch or tag.

    Args:
        repo_id: Repository, "owner/name".
        repo_type: "model" or "dataset".
        revision: Branch, tag or commit; None for the default branch.
    Returns:
        The commit, 40 hex digits.
    Raises:
        DataError: When a dataset repository cannot be read; the message says what to do.
        ModelError: The same for a model repository.
    """
    from huggingface_hub import HfApi

    class Api(HfApi):
        name = repo_id

        def repo_info(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            info = super().repo_info(*args, **kwargs)
            self.name = info.id  # a renamed repository answers with its new name
            return info

    api = Api()
    found = ask(
        lambda: api.resolve_revision(repo_id, repo_type=repo_type, revision=revision),
        repo_id,
        repo_type,
    )
    if api.name.lower() != repo_id.lower():
        log.warning("%s %s was renamed: configure %s instead", repo_type, repo_id, api.name)
    return found.resolved


def ask(call: Callable[[], T], repo_id: str, repo_type: RepoType) -> T:
    """Make a call that reads a repository, patiently, and explain its failure.

    Raises:
        DataError: When a dataset repository cannot be read; the message says what to do.
        ModelError: The same for a model repository. Errors that are none of the Hub's pass
            through unchanged.
    """
    set_timeouts()
    try:
        return patiently(call)
    except Exception as error:
        message = explain(error, repo_id, repo_type, reading=True)
        if message is None:
            raise
        kind = ModelError if repo_type == "model" else DataError
        # The cause is left out: it carries the request, and the request the token.
        raise kind(message) from None


def patiently(call: Callable[[], T]) -> T:
    """Repeat a call while it fails in a way that may pass; raise the last failure as it is."""

    def pause(state: RetryCallState) -> float:
        cause = _hub_cause(state.outcome.exception() if state.outcome else None)
        response = getattr(cause, "response", None)
        asked = response.headers.get("retry-after", "") if response is not None else ""
        seconds = float(asked) if asked.isdigit() else wait_exponential_jitter(1, 8)(state)
        return min(seconds, LONGEST_WAIT)

    retry, stop = retry_if_exception(may_pass), stop_after_attempt(ATTEMPTS)
    return Retrying(stop=stop, wait=pause, retry=retry, reraise=True)(call)


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call may work a little later."""
    from huggingface_hub import errors

    cause = _hub_cause(error)
    if isinstance(cause, errors.HfHubHTTPError):
        return cause.response.status_code in PASSING
    lost = errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError
    return cause is not None and not isinstance(cause, lost)


def explain(
    error: BaseException, repo_id: str = "", repo_type: str = "", *, reading: bool = False
) -> str | None:
    """Say what went wrong at the Hub and what to do about it; None if it was not the Hub.

    Args:
        error: What came out of a client.
        repo_id: The repository asked for, if it was one.
        repo_type: "model" or "dataset".
        reading: Whether the local cache could have answered.
    """
    from huggingface_hub import constants, errors

    cause = _hub_cause(error)
    if cause is None:
        return None
    if isinstance(cause, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        says = (
            "is not whole in the local cache, and offline mode is on: unset HF_HUB_OFFLINE and "
            "download it once, or name a local folder or file"
            if reading
            else "was not asked, as HF_HUB_OFFLINE is set"
        )
    elif isinstance(cause, errors.HfHubHTTPError):
        says = _explain_answer(cause, repo_id, repo_type)
    else:
        says = (
            f"cannot be reached ({type(cause).__name__}): check the network, the proxy and "
            "HF_ENDPOINT, then run again"
        )
        says += "; HF_HUB_OFFLINE=1 uses what is in the local cache" if reading else ""
    what = f"{repo_type} {repo_id!r}" if repo_id else "the Hub"
    return f"{what} at {constants.ENDPOINT} {says}"


def _explain_answer(cause: "HfHubHTTPError", repo_id: str, repo_type: str) -> str:
    from huggingface_hub import constants, errors

    status, login = cause.response.status_code, "run `hf auth login` or set HF_TOKEN"
    if isinstance(cause, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
        return f"is gated: ask for access at {page}, then {login}"
    if isinstance(cause, errors.RevisionNotFoundError):
        return "has no such revision: give a branch, tag or commit that it lists, or none"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return f"does not exist or is private: check its spelling; if it is private, {login}"
    if isinstance(cause, errors.RemoteEntryNotFoundError):
        return f"lacks {cause.response.url.path}: choose another revision"
    if status == 401:
        return f"refuses the token: {login} anew, or unset it"
    if status == 403:
        return "is closed to this token: use one whose permissions cover it"
    if status == 429:
        wait = cause.response.headers.get("retry-after")
        when = f"{wait} s" if wait else "a few minutes"
        return f"limits the rate: run again in {when}; with a token the limit is higher"
    if status in PASSING:
        return f"is out of order (HTTP {status}): run again later"
    return f"answered HTTP {status}: {cause.server_message or 'no reason given'}"


@cache
def set_timeouts() -> None:
    """Give the Hub's client a time-out, once a process: by default it waits for ever."""
    from huggingface_hub import set_client_factory

    set_client_factory(_client)


def _client() -> "httpx2.Client":
    import httpx2
    from huggingface_hub.utils._http import default_client_factory

    limits = httpx2.Timeout(TIMEOUT, connect=min(10.0, TIMEOUT)).as_dict()

    def limit(request: httpx2.Request) -> None:
        # Most calls ask for no time-out in so many words, so the client's own would not count.
        asked = request.extensions.get("timeout", {})
        request.extensions["timeout"] = limits | {k: v for k, v in asked.items() if v is not None}

    client = default_client_factory()
    client.event_hooks = {"request": [*client.event_hooks["request"], limit], "response": []}
    return client


def _hub_cause(error: BaseException | None) -> BaseException | None:
    """Find the Hub's own error under those that other libraries wrap around it."""
    import httpx2
    from huggingface_hub import errors

    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    kinds = (
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        httpx2.TransportError,
        errors.LocalEntryNotFoundError,
        ConnectionError,
    )
    return next((e for kind in kinds for e in chain if isinstance(e, kind)), None)
