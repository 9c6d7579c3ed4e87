"""Bringing a Hub repository to what it shall be: one commit, or none if it is already so.

Everything here reads what is there, compares, and writes what differs. So a lost answer is no
danger, a second run completes the first, and a third finds nothing to do.
"""

import difflib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub.client import RepoType, explain
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.publishing.uploads import ALLOWED
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.records import Record

RUN_TAG = "run-"


class Uploaded(Record):
    """What came of one repository, or in a dry run would come of it."""

    added: list[str]
    changed: list[str]
    deleted: list[str]
    repo: str
    url: str  # its page at the tag of the run
    tag: str
    unchanged: int  # files that were there already
    left_out: list[str]  # files of the folder that do not go
    private: bool
    commit: str | None  # holds the files; null where it is still to be made
    committed: bool = False  # by this run
    note: str = ""  # what a dry run could not see

    @property
    def paths(self) -> list[str]:
        """All that differ."""
        return [*self.added, *self.changed, *self.deleted]


class State(NamedTuple):
    """A repository as it is: head, files (path -> hash as the Hub gives it), tags -> commit."""

    private: bool
    head: str | None = None
    files: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}


@dataclass(frozen=True)
class Repository:
    """A repository as it shall be."""

    api: HfApi
    tag: str  # names the run; marks the commit that holds the files
    private: bool  # created so, and refused where it is public
    kind: RepoType
    repo: str
    out: Path  # folder of what is written for it; in a dry run, of all that would go
    files: dict[str, Path]  # path in the repository -> file here
    left_out: list[str]  # files of the folder that do not go

    def examine(self) -> Uploaded:
        """Check what would fail later, before anything is made or sent.

        Raises:
            PublishError: As `check`.
            ValueError: The Hub refuses the metadata of the card.
        """
        card = RepoCard(self.files["README.md"].read_text(encoding="utf-8"))
        patiently(lambda: card.validate(repo_type=self.kind))
        try:
            return self.check(patiently(self._look))
        except RepositoryNotFoundError:
            return self.check(State(self.private))

    def rehearse(self) -> Uploaded:
        """Write what `send` would send and how the README changes, and send nothing."""
        state, note = State(self.private), ""
        for name, path in self.files.items():
            place = self.out / name
            if path != place:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        try:
            state = self._look()
            if "README.md" in state.files:
                there = self.api.hf_hub_download(
                    self.repo, "README.md", repo_type=self.kind, revision=state.head
                )
                before, after = (
                    Path(readme).read_text(encoding="utf-8").splitlines(keepends=True)
                    for readme in (there, self.files["README.md"])
                )
                lines = difflib.unified_diff(before, after, f"{self.repo}/README.md", "README.md")
                write_whole(self.out.with_name(f"{self.kind}-README.diff"), "".join(lines))
        except RepositoryNotFoundError:
            note = "new, or not visible to this token"
        except Exception as error:
            note = explain(error, self.repo, self.kind) or ""
            if not note:
                raise
        return self.check(state).model_copy(update={"note": note})

    def create(self) -> None:
        """Create it, if it is not there; one that exists keeps its visibility."""
        kind, private = self.kind, self.private
        patiently(
            lambda: self.api.create_repo(self.repo, repo_type=kind, private=private, exist_ok=True)
        )

    def send(self) -> Uploaded:
        """Commit what differs from what is there, verify, and tag.

        Raises:
            PublishError: As `check`; or the repository does not hold what was sent.
        """
        found: list[Uploaded] = []

        def bring_up() -> str:
            # Each attempt compares anew: one before may have landed although its answer is lost.
            state = self._look()
            told = self.check(state)
            found.append(told)
            if not told.paths:
                return str(state.head)
            adds = [CommitOperationAdd(p, str(self.files[p])) for p in told.added + told.changed]
            made = self.api.create_commit(
                self.repo,
                [*adds, *(CommitOperationDelete(p) for p in told.deleted)],
                commit_message=f"Publish {self.tag}",
                repo_type=self.kind,
                parent_commit=state.head,
            )
            return str(made.oid)

        commit = patiently(bring_up)
        there = patiently(lambda: self._look(commit))
        if wrong := self._compare(there).paths:
            raise PublishError(
                f"{self.repo} at {commit[:12]} does not hold what was sent "
                f"({', '.join(sorted(wrong))}): publish again"
            )
        patiently(lambda: self._tag(commit))
        done = {"commit": commit, "committed": bool(found[0].paths)}
        return found[0].model_copy(update=done)

    def check(self, state: State) -> Uploaded:
        """Tell what would be added, changed and deleted, if that may be.

        Raises:
            PublishError: The repository is public and must not be, has a tag of this run
                elsewhere, or holds files that no run put there and that would be lost.
        """
        if self.private and not state.private:
            raise PublishError(
                f"{self.kind} {self.repo} is public, and publish.private is true: make it private "
                "in its settings on the Hub, choose another name, or set publish.private to false"
            )
        told = self._compare(state)
        in_the_way = told.changed + told.deleted
        if in_the_way and not any(name.startswith(RUN_TAG) for name in state.tags):
            raise PublishError(
                f"{self.kind} {self.repo} holds {', '.join(in_the_way)}, and no run of this "
                "pipeline put that there: choose another name, or delete these files on the Hub"
            )
        marked = state.tags.get(self.tag)
        if marked and (told.paths or marked != state.head):
            raise PublishError(
                f"tag {self.tag} of {self.repo} marks {marked}, not what would go: a "
                "tag does not move; delete it on the Hub, or publish from a new run"
            )
        return told

    def _look(self, revision: str | None = None) -> State:
        info = self.api.repo_info(self.repo, repo_type=self.kind, revision=revision)
        head = str(info.sha)
        tree = self.api.list_repo_tree(
            self.repo, repo_type=self.kind, revision=head, recursive=True
        )
        files = (entry for entry in tree if isinstance(entry, RepoFile))
        hashes = {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in files}
        return State(bool(info.private), head, hashes, self._tags())

    def _tags(self) -> dict[str, str]:
        refs = self.api.list_repo_refs(self.repo, repo_type=self.kind)
        return {tag.name: tag.target_commit for tag in refs.tags}

    def _compare(self, state: State) -> Uploaded:
        here, there = self.files.keys(), state.files.keys()
        changed = [name for name in here & there if not _is(self.files[name], state.files[name])]
        deleted = [name for name in there - here if ALLOWED[self.kind].fullmatch(name)]
        folder = "datasets/" if self.kind == "dataset" else ""
        return Uploaded(
            added=sorted(here - there),
            changed=sorted(changed),
            deleted=sorted(deleted),
            repo=self.repo,
            url=f"{self.api.endpoint}/{folder}{self.repo}/tree/{self.tag}",
            tag=self.tag,
            unchanged=len(here & there) - len(changed),
            left_out=self.left_out,
            private=state.private,
            commit=state.head if here <= there and not changed and not deleted else None,
        )

    def _tag(self, commit: str) -> None:
        self.api.create_tag(
            self.repo, tag=self.tag, revision=commit, repo_type=self.kind, exist_ok=True
        )
        if (marked := self._tags().get(self.tag)) != commit:
            raise PublishError(
                f"{self.repo} has {commit}, and its tag {self.tag} marks {marked or 'nothing'}: "
                "delete the tag on the Hub, and publish again"
            )


def _is(path: Path, known: str) -> bool:
    """Tell whether a file has the hash that the Hub gives: git's has 40 digits."""
    return known == (git_hash(path.read_bytes()) if len(known) == 40 else file_digest(path))
