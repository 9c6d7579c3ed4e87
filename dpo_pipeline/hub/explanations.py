"""What went wrong at the Hub, in words that say what to do; no token among them."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

# 409 and 412: somebody else committed in between.
PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def masked(text: str, token: str | None = None) -> str:
    """Hide the token, and whatever looks like one."""
    return TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)


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

    cause = hub_cause(error)
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
