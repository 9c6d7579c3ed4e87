"""Settings of what goes to the Hub."""

from typing import Annotated

from pydantic import Field

from dpo_pipeline.store.settings import Section

_REPO_NAME = r"[A-Za-z0-9_]+([.-][A-Za-z0-9_]+)*"
RepoId = Annotated[str, Field(max_length=96, pattern=rf"^{_REPO_NAME}(/{_REPO_NAME})?$")]


class PublishConfig(Section):
    """What goes to the Hugging Face Hub; nothing by default."""

    model_repo: RepoId | None = None
    """Hub repository of the model, owner/name; null: none."""
    dataset_repo: RepoId | None = None
    """Hub repository of the pairs, owner/name; null: none."""
    private: bool = True
    """Create the repositories private, and refuse a public one."""
    dry_run: bool = True
    """Write what would go and how it differs, and send nothing."""
    force: Annotated[str, Field(min_length=10)] | None = None
    """Publish although the gate failed, for this reason; lands in the card."""
    token_block: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] | None = None
    """Name of the Prefect Secret block with the token; null: environment or login."""

    @property
    def repositories(self) -> dict[str, str]:
        """What is to be published: "dataset", which goes first, and "model" -> repository."""
        repos = {"dataset": self.dataset_repo, "model": self.model_repo}
        return {kind: repo for kind, repo in repos.items() if repo}
