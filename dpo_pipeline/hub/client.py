"""Reading from the Hugging Face Hub: a revision becomes a commit, an error says what to do."""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

from dpo_pipeline.errors import DataError, ModelError
from dpo_pipeline.hub.retries import PASSING, hub_cause, patiently

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

RepoType = Literal["model", "dataset"]
T = TypeVar("T")

TIMEOUT = 120.0  # seconds without a byte

logger = logging.getLogger(__name__)


def resolve_revision(repo_id: str, repo_type: RepoType, revision: str | None = None) -> str:
    """Resolve a branch or tag (None: the default branch) to the commit that later reads use.

    Offline, it is the commit that the local cache holds for that branch or tag.

    Raises:
        DataError: A dataset cannot be read; the message says what to do.
        ModelError: The same for a model.
    """
    from huggingface_hub import HfApi

    class Api(HfApi):
        def repo_info(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            info = super().repo_info(*args, **kwargs)
            if info.id.lower() != repo_id.lower():
                told = "%s %s was renamed: configure %s instead"
                logger.warning(told, repo_type, repo_id, info.id)
            return info

    def resolve() -> str:
        return Api().resolve_revision(repo_id, repo_type=repo_type, revision=revision).resolved

    return ask(resolve, repo_id, repo_type)


def ask(call: Callable[[], T], repo_id: str, repo_type: RepoType) -> T:
    """Make a call that reads a repository, patiently, and explain its failure.

    Raises:
        DataError: A dataset cannot be read; the message says what to do.
        ModelError: The same for a model. Errors that are none of the Hub's pass unchanged.
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


def explain(
    error: BaseException, repo_id: str = "", repo_type: str = "", *, reading: bool = False
) -> str | None:
    """Say what went wrong at the Hub and what to do about it; None if it was not the Hub."""
    from huggingface_hub import constants, errors

    cause = hub_cause(error)
    if cause is None:
        return None
    if isinstance(cause, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        says = "was not asked, as HF_HUB_OFFLINE is set"
        if reading:  # the local cache could have been enough
            says = "is not whole in the local cache, and offline mode is on: unset HF_HUB_OFFLINE "
            says += "and download it once, or name a local folder or file"
    elif isinstance(cause, errors.HfHubHTTPError):
        says = _explain_answer(cause, repo_id, repo_type)
    else:
        says = f"cannot be reached ({type(cause).__name__}): check the network, the proxy and "
        says += "HF_ENDPOINT, then run again"
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
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def limit(request: httpx2.Request) -> None:
        # Most calls ask for no time-out in so many words, so the client's own would not count.
        limits = httpx2.Timeout(TIMEOUT, connect=min(10.0, TIMEOUT)).as_dict()
        asked = request.extensions.get("timeout", {})
        request.extensions["timeout"] = limits | {k: v for k, v in asked.items() if v is not None}

    def make_client() -> httpx2.Client:
        client = default_client_factory()
        client.event_hooks = {"request": [*client.event_hooks["request"], limit], "response": []}
        return client

    set_client_factory(make_client)
