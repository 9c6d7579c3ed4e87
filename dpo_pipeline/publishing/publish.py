"""Publishing to the Hugging Face Hub: with evidence, private, one commit each, or not at all."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from dpo_pipeline.errors import PublishError
from dpo_pipeline.publishing.access import connect, telling
from dpo_pipeline.publishing.cards import Facts, dataset_card, gather_facts, model_card
from dpo_pipeline.publishing.commits import Repository
from dpo_pipeline.publishing.evidence import check_evidence
from dpo_pipeline.publishing.records import Proven, Published, Uploaded
from dpo_pipeline.publishing.secrets import refuse_secrets
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.publishing.uploads import Kind, plan_uploads
from dpo_pipeline.store.files import write_whole


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
    with telling(token=token):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", run.run_id):
            raise PublishError(
                f"run id {run.run_id!r} cannot name a tag: use letters, digits, . _ -"
            )
        if not config.repositories:
            raise PublishError(
                "nothing to publish: set publish.model_repo or publish.dataset_repo to a Hub id"
            )
        forced = check_evidence(run, config.force)
        api, user, note = connect(config, token)
        facts = gather_facts(run, config, api, user, forced)
        refuse_secrets(facts.model_dump(), "what the cards tell", token)
        uploads = plan_uploads(facts, token, out)
        repositories = [Repository(**vars(u), api=api, private=config.private) for u in uploads]
        told = Published(dry_run=config.dry_run, forced=forced, note=note)
        record = out / "publish.json"
        each = partial(_each, repositories, facts, out)
        if config.dry_run:
            told = told.model_copy(update=dict(each(partial(Repository.rehearse, out=out))))
            told.write(record)
            return told
        for _ in each(Repository.examine):
            pass  # both pass every check before either goes
        told.write(record)
        for repository in repositories:
            with telling(repository.repo, repository.kind):
                repository.create()
        landed: list[str] = []
        for kind, done in each(Repository.send, landed):
            told = told.model_copy(update={kind: done})
            told.write(record)
            landed.append(f"{kind} {done.repo} is at commit {done.commit}")
    return told


def _each(
    repositories: Sequence[Repository],
    facts: Facts,
    out: Path,
    step: Callable[[Repository], Uploaded],
    landed: Sequence[str] = (),
) -> Iterator[tuple[Kind, Uploaded]]:
    """Write each card and take the step; the model's card names the commit of its dataset."""
    for repository in repositories:
        files, kind = repository.files, repository.kind
        if kind == "model":
            card = model_card(facts, files)
        else:
            rows = {p: pq.read_metadata(f).num_rows for p, f in files.items() if "/" in p}
            card = dataset_card(facts, rows)
        files["README.md"] = out / kind / "README.md"
        write_whole(files["README.md"], card)
        with telling(repository.repo, kind, landed=landed):
            done = step(repository)
        yield kind, done
        if kind == "dataset":
            facts = facts.model_copy(update={"dataset_commit": done.commit})
