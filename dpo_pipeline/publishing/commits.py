"""Bringing a Hub repository to what it shall be: one commit, or none if it is already so.

Everything here reads what is there, compares, and writes what differs. So a lost answer is no
danger, a second run completes the first, and a third finds nothing to do.
"""

import difflib
import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub.explanations import explain
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.publishing.records import Differences, Uploaded
from dpo_pipeline.publishing.uploads import ALLOWED, RUN_TAG, Upload
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.files import write_whole


@dataclass(frozen=True)
class State:
    """A repository as it is: head, files (path -> hash as the Hub gives it), tags -> commit."""

    head: str | None = None
    private: bool = True
    files: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Repository(Upload):
    """An upload at the Hub; where it must be `private`, a public repository is refused."""

    api: HfApi
    private: bool

    def create(self) -> None:
        """Create it, if it is not there."""
        patiently(
            lambda: self.api.create_repo(
                self.repo, repo_type=self.kind, private=self.private, exist_ok=True
            )
        )

    def examine(self) -> Uploaded:
        """Check what would fail later, before anything is made or sent.

        Raises:
            PublishError: As `compare`.
            ValueError: The Hub refuses the metadata of the card.
        """
        card = RepoCard(self.files["README.md"].read_text(encoding="utf-8"))
        patiently(lambda: card.validate(repo_type=self.kind))
        try:
            state = patiently(self._look)
        except RepositoryNotFoundError:
            state = State(private=self.private)
        return self._tell(self.compare(state), state)

    def rehearse(self, out: Path) -> Uploaded:
        """Write what `send` would send, compare it with what is there, and send nothing.

        Args:
            out: Gets the files in a folder of the kind, and beside it the changes to the README.
        """
        state, note = State(private=self.private), ""
        for name, path in self.files.items():
            place = out / self.kind / name
            if path != place:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
        try:
            state = self._look()
            if "README.md" in state.files:
                self._write_readme_diff(state, out / f"{self.kind}-README.diff")
        except RepositoryNotFoundError:
            note = "new, or not visible to this token"
        except Exception as error:
            note = explain(error, self.repo, self.kind) or ""
            if not note:
                raise
        return self._tell(self.compare(state), state, note)

    def send(self) -> Uploaded:
        """Commit what differs from what is there, verify, and tag.

        Raises:
            PublishError: As `compare`; or the repository does not hold what was sent.
        """
        found: list[Differences] = []

        def bring_up() -> State:
            # Each attempt compares anew: one before may have landed although its answer is lost.
            # A repository that exists keeps its visibility, whatever create_repo was told.
            state = self._look()
            found.append(self.compare(state))
            return replace(state, head=self._commit(found[-1], state.head))

        state = patiently(bring_up)
        commit = str(state.head)
        if wrong := self._differences(patiently(lambda: self._files(commit))).paths:
            raise PublishError(
                f"{self.repo} at {commit[:12]} does not hold what was sent "
                f"({', '.join(sorted(wrong))}): publish again"
            )
        patiently(lambda: self._tag(commit))
        done = {"commit": commit, "committed": bool(found[0].paths)}
        return self._tell(found[0], state).model_copy(update=done)

    def compare(self, state: State) -> Differences:
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
        differ = self._differences(state.files)
        in_the_way = differ.changed + differ.deleted
        if in_the_way and not any(name.startswith(RUN_TAG) for name in state.tags):
            raise PublishError(
                f"{self.kind} {self.repo} holds {', '.join(in_the_way)}, and no run of this "
                "pipeline put that there: choose another name, or delete these files on the Hub"
            )
        marked = state.tags.get(self.tag)
        if marked and (differ.paths or marked != state.head):
            raise PublishError(
                f"tag {self.tag} of {self.repo} marks {marked}, not what would go: a "
                "tag does not move; delete it on the Hub, or publish from a new run"
            )
        return differ

    def _differences(self, there: Mapping[str, str]) -> Differences:
        kept, allowed = there.keys() & self.files.keys(), ALLOWED[self.kind]
        return Differences(
            added=sorted(self.files.keys() - kept),
            changed=sorted(name for name in kept if not _is(self.files[name], there[name])),
            deleted=sorted(name for name in there.keys() - kept if allowed.fullmatch(name)),
        )

    def _tell(self, differ: Differences, state: State, note: str = "") -> Uploaded:
        folder = "datasets/" if self.kind == "dataset" else ""
        return Uploaded(
            **dict(differ),
            repo=self.repo,
            url=f"{self.api.endpoint}/{folder}{self.repo}/tree/{self.tag}",
            tag=self.tag,
            unchanged=len(self.files) - len(differ.added) - len(differ.changed),
            left_out=self.left_out,
            private=state.private,
            commit=None if differ.paths else state.head,
            note=note,
        )

    def _write_readme_diff(self, state: State, path: Path) -> None:
        there = self.api.hf_hub_download(
            self.repo, "README.md", repo_type=self.kind, revision=state.head
        )
        before, after = (
            Path(readme).read_text(encoding="utf-8").splitlines(keepends=True)
            for readme in (there, self.files["README.md"])
        )
        lines = difflib.unified_diff(before, after, f"{self.repo}/README.md", "README.md")
        write_whole(path, "".join(lines))

    def _commit(self, differ: Differences, head: str | None) -> str | None:
        """Make the commit, if anything differs; return the head after it."""
        if not differ.paths:
            return head
        sent = [*differ.added, *differ.changed]
        made = self.api.create_commit(
            self.repo,
            [
                *(CommitOperationAdd(name, str(self.files[name])) for name in sent),
                *(CommitOperationDelete(name) for name in differ.deleted),
            ],
            commit_message=f"Publish {self.tag}",
            repo_type=self.kind,
            parent_commit=head,
        )
        return str(made.oid)

    def _tag(self, commit: str) -> None:
        if self.tag not in self._tags():
            self.api.create_tag(
                self.repo, tag=self.tag, revision=commit, repo_type=self.kind, exist_ok=True
            )
        if (marked := self._tags().get(self.tag)) != commit:
            raise PublishError(
                f"{self.repo} has {commit}, and its tag {self.tag} marks {marked or 'nothing'}: "
                "delete the tag on the Hub, and publish again"
            )

    def _look(self) -> State:
        info = self.api.repo_info(self.repo, repo_type=self.kind)
        head = str(info.sha)
        return State(head, bool(info.private), self._files(head), self._tags())

    def _tags(self) -> dict[str, str]:
        refs = self.api.list_repo_refs(self.repo, repo_type=self.kind)
        return {tag.name: tag.target_commit for tag in refs.tags}

    def _files(self, commit: str) -> dict[str, str]:
        """Read what is there: path -> sha256 of a large file, git's hash of another."""
        tree = self.api.list_repo_tree(
            self.repo, repo_type=self.kind, revision=commit, recursive=True
        )
        files = (entry for entry in tree if isinstance(entry, RepoFile))
        return {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in files}


def _is(path: Path, known: str) -> bool:
    """Tell whether a file has the hash that the Hub gives: git's has 40 digits."""
    if len(known) != 40:
        return file_digest(path) == known
    head = b"blob %d\0" % path.stat().st_size
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(head)).hexdigest() == known
