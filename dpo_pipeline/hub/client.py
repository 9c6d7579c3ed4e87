"""Reading from the Hugging Face Hub: a revision becomes a commit, an error says what to do."""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar

from dpo_pipeline.errors import DataError, ModelError
from dpo_pipeline.hub.explanations import explain
from dpo_pipeline.hub.retries import patiently

if TYPE_CHECKING:
    import httpx2

RepoType = Literal["model", "dataset"]
T = TypeVar("T")

TIMEOUT = 120.0  # seconds without a byte

logger = logging.getLogger(__name__)


def resolve_revision(repo_id: str, repo_type: RepoType, revision: str | None = None) -> str:
    """Resolve a branch or tag to the commit that every later read uses.

    Offline, it is the commit that the local cache holds for that branch or tag.

    Args:
        repo_id: Repository, "owner/name".
        repo_type: What it holds.
        revision: Branch, tag or commit; None for the default branch.
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
