"""Access to the Hub: the token and what it may write, known before hours of work."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from huggingface_hub import HfApi, constants

from dpo_pipeline.errors import ModelError, PublishError
from dpo_pipeline.hub.client import explain, set_timeouts
from dpo_pipeline.hub.retries import may_pass, patiently
from dpo_pipeline.plaintext import scrub
from dpo_pipeline.publishing.settings import PublishConfig


def check_access(config: PublishConfig, token: str | None) -> str:
    """Check that the token may write to the configured repositories; return its user.

    Raises:
        PublishError: There is none, it may not, or offline mode is on.
    """
    with telling(token=token):
        set_timeouts()
        if constants.is_offline_mode():
            raise PublishError("HF_HUB_OFFLINE is set: unset it to publish")
        if not token:
            raise PublishError(
                "no Hub token: set HF_TOKEN, run `hf auth login`, or name a Prefect Secret block "
                "in publish.token_block; the token needs write access"
            )
        return check_token(HfApi(token=token), config.repositories)


def check_token(api: HfApi, repos: Mapping[str, str]) -> str:
    """Check that the token may write to these repositories (kind -> name); return its user."""
    who = patiently(api.whoami)
    name, access = str(who["name"]), who.get("auth", {}).get("accessToken", {})
    remedy = f"at {api.endpoint}/settings/tokens"
    if access.get("role") == "fineGrained":
        covered = {
            (scope["entity"]["type"], scope["entity"]["name"].lower())
            for scope in access.get("fineGrained", {}).get("scoped", [])
            if "repo.write" in scope["permissions"]
        }
        for kind, repo in repos.items():
            full = full_name(repo, name).lower()
            owner = full.split("/")[0]
            if not covered & {(kind, full), ("user", owner), ("org", owner)}:
                raise PublishError(
                    f"the Hub token of {name} may not write to the {kind} {repo}: give it write "
                    f"access to that repository, or to all of {owner}, {remedy}"
                )
    elif access.get("role") != "write":
        raise PublishError(
            f"the Hub token of {name} may only read: make one with write access {remedy}"
        )
    return name


def full_name(repo: str, user: str) -> str:
    """Return owner/name: a repository without an owner is the user's."""
    return f"{user}/{repo}" if user and "/" not in repo else repo


@contextmanager
def telling(
    repo: str = "", kind: str = "", *, token: str | None = None, landed: Sequence[str] = ()
) -> Iterator[None]:
    """Turn every failure into a PublishError: what to do, what is done, and no token in it."""
    try:
        yield
    except Exception as error:
        told, name = str(error), type(error).__name__
        if not isinstance(error, PublishError | ModelError):
            told = explain(error, repo, kind) or f"publishing stopped: {name}: {error}"
            told += "; publishing again completes what is missing" if may_pass(error) else ""
        told += f"; done before: {', '.join(landed)}" if landed else ""
        # No cause: the Hub's errors hold the request, and the request the token.
        raise PublishError(scrub(told, token)) from None
