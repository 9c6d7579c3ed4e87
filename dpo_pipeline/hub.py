"""Reading from the Hugging Face Hub: a revision becomes a commit, an error says what to do.

Reads go through `ask`, which waits and tries again where that may help (dropped
connections, rate limits, a busy server) and nowhere else.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential_jitter

from dpo_pipeline.errors import DataError, DPOPipelineError, ModelError

if TYPE_CHECKING:
    import httpx2

RepoType = Literal["model", "dataset"]
T = TypeVar("T")

ATTEMPTS = 5
LONGEST_WAIT = 60.0  # seconds between two attempts
TIMEOUT = 120.0  # seconds without a byte, after which a call is given up
PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})  # 409, 412: another was faster

log = logging.getLogger("dpo_pipeline.hub")


def resolve_revision(repo_id: str, repo_type: RepoType, revision: str | None = None) -> str:
    """Resolve a branch or tag to the commit that every later read uses.

    Offline, the commit is the one the local cache holds for that branch or tag.

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
        """Remembers the name the Hub answers with: a renamed repository has another one."""

        name = repo_id

        def repo_info(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            info = super().repo_info(*args, **kwargs)
            self.name = info.id
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
        kind: type[DPOPipelineError] = ModelError if repo_type == "model" else DataError
        message = explain(error, repo_id, repo_type)
        if message is None:
            raise
        # The cause is left out: it carries the request, and the request the token.
        raise kind(message) from None


def patiently(call: Callable[[], T]) -> T:
    """Repeat a call while it fails in a way that may pass; the last failure is raised as it is."""

    def pause(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = _headers(error).get("retry-after", "")
        backoff = wait_exponential_jitter(initial=1, max=8)(state)
        return min(float(asked) + 1 if asked.isdigit() else backoff, LONGEST_WAIT)

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=pause,
        retry=retry_if_exception(may_pass),
        reraise=True,
    )
    return retrying(call)


def may_pass(error: BaseException) -> bool:
    """Tell whether the same call may work a little later."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause = _hub_cause(error)
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in PASSING
    return isinstance(cause, httpx2.TransportError | ConnectionError) and not isinstance(
        cause, OfflineModeIsEnabled | httpx2.UnsupportedProtocol
    )


def explain(error: BaseException, repo_id: str, repo_type: str) -> str | None:
    """Say what went wrong at the Hub and what to do about it; None if it was not the Hub."""
    from huggingface_hub import constants, errors

    cause = _hub_cause(error)
    what = f"{repo_type} {repo_id!r} at {constants.ENDPOINT}"
    if cause is None:
        return None
    if isinstance(cause, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return (
            f"{what} is not whole in the local cache and offline mode is on: unset "
            "HF_HUB_OFFLINE and download it once, or name a local folder or file"
        )
    if not isinstance(cause, errors.HfHubHTTPError):
        return (
            f"{what} cannot be reached ({type(cause).__name__}): check the network, the proxy "
            "and HF_ENDPOINT, then run again; with a cached copy, HF_HUB_OFFLINE=1 does without"
        )
    status = cause.response.status_code
    if isinstance(cause, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"
        remedy = f"is gated: ask for access at {page}, then run `hf auth login` or set HF_TOKEN"
    elif isinstance(cause, errors.RevisionNotFoundError):
        remedy = "has no such revision: give a branch, tag or commit that it lists, or none"
    elif isinstance(cause, errors.RepositoryNotFoundError):
        remedy = (
            "does not exist or is private: check the spelling of the id; if it is private, run "
            "`hf auth login` or set HF_TOKEN to a token that may read it"
        )
    elif isinstance(cause, errors.RemoteEntryNotFoundError):
        remedy = f"lacks a file that is needed ({cause.request.url.path}): choose another revision"
    elif status == 401:
        remedy = "refuses the token: renew it with `hf auth login` or in HF_TOKEN, or unset it"
    elif status == 403:
        remedy = "is closed to this token: use one whose permissions cover it"
    elif status == 429:
        wait = cause.response.headers.get("retry-after")
        remedy = f"limits the rate: run again in {wait + ' s' if wait else 'a few minutes'}"
        remedy += "; a token (HF_TOKEN) has a higher limit than none"
    elif status in PASSING:
        remedy = f"is out of order (HTTP {status}): run again later"
    else:
        remedy = f"answered HTTP {status}: {cause.server_message or 'no reason given'}"
    return f"{what} {remedy}"


@cache
def set_timeouts() -> None:
    """Give the Hub's client a time-out, once a process: by default it waits for ever."""
    from huggingface_hub import set_client_factory

    set_client_factory(_client)


def _client() -> "httpx2.Client":
    import httpx2
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    client.timeout = httpx2.Timeout(TIMEOUT, connect=min(10.0, TIMEOUT))
    return client


def _hub_cause(error: BaseException | None) -> BaseException | None:
    """Find the Hub's own error under those that other libraries wrap around it."""
    import httpx2
    from huggingface_hub import errors

    kinds = (
        errors.HfHubHTTPError,
        errors.OfflineModeIsEnabled,
        httpx2.TransportError,
        errors.LocalEntryNotFoundError,
        ConnectionError,
    )
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return next((e for kind in kinds for e in chain if isinstance(e, kind)), None)


def _headers(error: BaseException | None) -> dict[str, str]:
    response = getattr(_hub_cause(error), "response", None)
    return {k.lower(): v for k, v in response.headers.items()} if response is not None else {}
