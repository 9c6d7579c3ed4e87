"""Publishing to the Hugging Face Hub: with evidence, private, one commit each, or not at all."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi
from pydantic import Field

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub.client import RepoType
from dpo_pipeline.publishing.access import check_access, telling
from dpo_pipeline.publishing.cards import Facts, gather_facts, write_card
from dpo_pipeline.publishing.commits import RUN_TAG, Repository, Uploaded
from dpo_pipeline.publishing.evidence import Proven, check_evidence
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.publishing.uploads import choose_files, refuse_secrets
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.records import Record


class Published(Record):
    """What came of publishing: publish.json; after a failure, what was done before."""

    dry_run: bool
    forced: str | None  # why it goes although the gate failed; null if it passed
    note: str = ""  # why sending would fail now
    dataset: Uploaded | None = Field(None, exclude_if=lambda value: value is None)
    model: Uploaded | None = Field(None, exclude_if=lambda value: value is None)


def publish(config: PublishConfig, run: Proven, *, token: str | None, out: Path) -> Published:
    """Publish a model and a dataset that passed the gate, or write what would be published.

    Args:
        config: Repositories, visibility, dry run, reason to force.
        run: What goes.
        token: Token with write access; a dry run does with less or none.
        out: Empty folder; gets the cards, in a dry run all other files, and publish.json: what
            is returned, and after a failure what was done before.
    Raises:
        PublishError: The evidence, the token, a repository or the Hub refuses. No repository
            is left half done.
    """
    landed: list[str] = []
    with telling(token=token, landed=landed):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", run.run_id):
            raise PublishError(
                f"run id {run.run_id!r} cannot name a tag: use letters, digits, . _ -"
            )
        if not config.repositories:
            raise PublishError(
                "nothing to publish: set publish.model_repo or publish.dataset_repo to a Hub id"
            )
        check_evidence(run, config.force)
        api, user, note = HfApi(token=token or False), "", ""
        try:
            user = check_access(config, token)
        except PublishError as error:
            if not config.dry_run:
                raise
            note = str(error)
        facts = gather_facts(run, config, api, user)
        refuse_secrets(facts.model_dump(), "what the cards tell", token)
        at_hub = partial(Repository, api, RUN_TAG + run.run_id, config.private)
        repositories = [
            at_hub(kind, repo, out / kind, *choose_files(kind, facts, token, out / kind))
            for kind, repo in facts.repos.items()
        ]
        each = partial(_each, repositories, facts)
        told = Published(dry_run=config.dry_run, forced=facts.forced, note=note)
        record = out / "publish.json"
        if config.dry_run:
            told = told.model_copy(update=dict(each(Repository.rehearse)))
            told.write(record)
            return told
        list(each(Repository.examine))  # both pass every check before either goes
        told.write(record)
        for repository in repositories:
            with telling(repository.repo, repository.kind):
                repository.create()
        for kind, done in each(Repository.send):
            told = told.model_copy(update={kind: done})
            told.write(record)
            landed.append(f"{kind} {done.repo} is at commit {done.commit}")
    return told


def _each(
    repositories: Sequence[Repository], facts: Facts, step: Callable[[Repository], Uploaded]
) -> Iterator[tuple[RepoType, Uploaded]]:
    """Write each card and take the step; the model's card names the commit of its dataset."""
    for repository in repositories:
        files, kind = repository.files, repository.kind
        card = write_card(kind, facts, files)
        files["README.md"] = repository.out / "README.md"
        write_whole(files["README.md"], card)
        with telling(repository.repo, kind):
            done = step(repository)
        yield kind, done
        if kind == "dataset":
            facts = facts.model_copy(update={"dataset_commit": done.commit})
