"""Bringing a Hub repository to what it shall be: one commit, or none if it is already so.

Everything here reads what is there, compares, and writes what differs. So a lost answer is no
danger, a second run completes the first, and a third finds nothing to do.
"""

import difflib
import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub.explanations import explain
from dpo_pipeline.hub.retries import patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# A file goes only under one of these names; one that an earlier run sent is taken away again.
ALLOWED = {
    "model": re.compile(
        r"(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
        r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map"
        r"|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|(tokenizer|spiece)\.model"
        r"|chat_template\.jinja|README\.md"
    ),
    "dataset": re.compile(r"data/(train|test)-\d{5}-of-\d{5}\.parquet|dataset\.json|README\.md"),
}
RUN_TAG = "run-"

Differences = dict[str, list[str]]


@dataclass(frozen=True)
class Remote:
    """A repository as it is: head, files (path -> hash as the Hub gives it), tags -> commit."""

    head: str | None = None
    private: bool = True
    files: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Upload:
    """One repository as it shall be.

    Attributes:
        kind: "model" or "dataset".
        repo: Hub id.
        files: Path in the repository -> file here.
        tag: Names the run; marks the commit that holds the files.
        left_out: Files of the folder that do not go.
    """

    kind: Literal["model", "dataset"]
    repo: str
    files: dict[str, Path]
    tag: str
    left_out: list[str]

    @property
    def at(self) -> dict[str, Any]:
        """The arguments by which the Hub's client finds the repository."""
        return {"repo_id": self.repo, "repo_type": self.kind}

    def differences(self, remote: Mapping[str, str]) -> Differences:
        """Compare with the hashes of what is there: added, changed and deleted paths."""
        kept = remote.keys() & self.files.keys()
        old = (path for path in remote.keys() - kept if ALLOWED[self.kind].fullmatch(path))
        return {
            "added": sorted(self.files.keys() - kept),
            "changed": sorted(p for p in kept if _hash(self.files[p], remote[p]) != remote[p]),
            "deleted": sorted(old),
        }

    def compare(self, remote: Remote, *, private: bool) -> Differences:
        """Tell what would be added, changed and deleted, if that may be.

        Raises:
            PublishError: The repository is public and `private` is true, has a tag of this run
                elsewhere, or holds files that no run put there and that would be lost.
        """
        if private and not remote.private:
            raise PublishError(
                f"{self.kind} {self.repo} is public, and publish.private is true: make it private "
                "in its settings on the Hub, choose another name, or set publish.private to false"
            )
        differ = self.differences(remote.files)
        in_the_way = differ["changed"] + differ["deleted"]
        if in_the_way and not any(tag.startswith(RUN_TAG) for tag in remote.tags):
            raise PublishError(
                f"{self.kind} {self.repo} holds {', '.join(in_the_way)}, and no run of this "
                "pipeline put that there: choose another name, or delete these files on the Hub"
            )
        marked = remote.tags.get(self.tag)
        if marked and (any(differ.values()) or marked != remote.head):
            raise PublishError(
                f"tag {self.tag} of {self.repo} marks {marked}, not what would go: a tag does not "
                "move; delete it on the Hub, or publish from a new run"
            )
        return differ


def examine(api: "HfApi", upload: Upload, *, private: bool) -> str | None:
    """Check what would fail later, before anything is made or sent.

    Returns:
        The commit that holds the upload already; None where one is to be made.
    Raises:
        PublishError: As `Upload.compare`.
        ValueError: The Hub refuses the metadata of the card.
    """
    from huggingface_hub import RepoCard
    from huggingface_hub.errors import RepositoryNotFoundError

    card = RepoCard(upload.files["README.md"].read_text(encoding="utf-8"))
    patiently(lambda: card.validate(repo_type=upload.kind))
    try:
        remote = patiently(lambda: _look(api, upload))
    except RepositoryNotFoundError:
        return None
    return None if any(upload.compare(remote, private=private).values()) else remote.head


def create(api: "HfApi", upload: Upload, *, private: bool) -> None:
    """Create the repository, if it is not there."""
    patiently(lambda: api.create_repo(**upload.at, private=private, exist_ok=True))


def send(api: "HfApi", upload: Upload, *, private: bool) -> dict[str, Any]:
    """Commit what differs from what is there, verify, and tag.

    Returns:
        What `_tell` returns, and private, commit, committed.
    Raises:
        PublishError: As `Upload.compare`; or the repository does not hold what was sent.
    """
    first: Differences = {}

    def bring_up() -> tuple[str, bool]:
        # Each attempt compares anew: the one before may have landed although its answer is lost.
        # A repository that exists keeps its visibility, whatever create_repo was told.
        remote = _look(api, upload)
        differ = upload.compare(remote, private=private)
        first.update(differ if not first else {})
        head = str(remote.head)
        if any(differ.values()):
            head = _commit(api, upload, differ, head)
        return head, remote.private

    commit, is_private = patiently(bring_up)
    wrong = upload.differences(patiently(lambda: _files(api, upload, commit)))
    if names := sorted(name for names in wrong.values() for name in names):
        raise PublishError(
            f"{upload.repo} at {commit[:12]} does not hold what was sent ({', '.join(names)}): "
            "publish again"
        )
    patiently(lambda: _tag(api, upload, commit))
    committed = any(first.values())
    state = {"private": is_private, "commit": commit, "committed": committed}
    return _tell(api, upload, first) | state


def rehearse(api: "HfApi", upload: Upload, *, private: bool, out: Path) -> dict[str, Any]:
    """Write what `send` would send, compare it with what is there, and send nothing.

    Args:
        api: Client.
        upload: What would go.
        private: Whether a public repository is refused.
        out: Gets the files in a folder of the kind, and beside it the changes to the README.
    Returns:
        As `send`; commit is None where one would be made, and note says what could not be read.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    for name, path in upload.files.items():
        place = out / upload.kind / name
        if path != place:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    remote, note = Remote(private=private), ""
    try:
        remote = _look(api, upload)
        if "README.md" in remote.files:
            _write_readme_diff(api, upload, remote, out / f"{upload.kind}-README.diff")
    except RepositoryNotFoundError:
        note = "new, or not visible to this token"
    except Exception as error:
        note = explain(error, upload.repo, upload.kind) or ""
        if not note:
            raise
    differ = upload.compare(remote, private=private)
    commit = None if any(differ.values()) else remote.head
    state = {"private": remote.private, "commit": commit, "committed": False, "note": note}
    return _tell(api, upload, differ) | state


def _write_readme_diff(api: "HfApi", upload: Upload, remote: Remote, path: Path) -> None:
    there = api.hf_hub_download(**upload.at, filename="README.md", revision=remote.head)
    before, after = (
        Path(readme).read_text(encoding="utf-8").splitlines(keepends=True)
        for readme in (there, upload.files["README.md"])
    )
    lines = difflib.unified_diff(before, after, f"{upload.repo}/README.md", "README.md")
    path.write_text("".join(lines), encoding="utf-8")


def _tell(api: "HfApi", upload: Upload, differ: Differences) -> dict[str, Any]:
    """Tell what an upload is: repo, url, tag, added, changed, deleted, unchanged, left_out."""
    folder = "datasets/" if upload.kind == "dataset" else ""
    return {
        "repo": upload.repo,
        "url": f"{api.endpoint}/{folder}{upload.repo}/tree/{upload.tag}",
        "tag": upload.tag,
        **differ,
        "unchanged": len(upload.files) - len(differ["added"]) - len(differ["changed"]),
        "left_out": upload.left_out,
    }


def _commit(api: "HfApi", upload: Upload, differ: Differences, head: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sent = [*differ["added"], *differ["changed"]]
    operations: list[Any] = [CommitOperationAdd(name, str(upload.files[name])) for name in sent]
    operations += [CommitOperationDelete(name) for name in differ["deleted"]]
    message = f"Publish {upload.tag}"
    made = api.create_commit(
        **upload.at, operations=operations, commit_message=message, parent_commit=head
    )
    return str(made.oid)


def _tag(api: "HfApi", upload: Upload, commit: str) -> None:
    if upload.tag not in _tags(api, upload):
        api.create_tag(**upload.at, tag=upload.tag, revision=commit, exist_ok=True)
    if (marked := _tags(api, upload).get(upload.tag)) != commit:
        raise PublishError(
            f"{upload.repo} has {commit}, and its tag {upload.tag} marks {marked or 'nothing'}: "
            "delete the tag on the Hub, and publish again"
        )


def _look(api: "HfApi", upload: Upload) -> Remote:
    info = api.repo_info(**upload.at)
    head = str(info.sha)
    return Remote(head, bool(info.private), _files(api, upload, head), _tags(api, upload))


def _tags(api: "HfApi", upload: Upload) -> dict[str, str]:
    return {t.name: t.target_commit for t in api.list_repo_refs(**upload.at).tags}


def _files(api: "HfApi", upload: Upload, revision: str) -> dict[str, str]:
    """Read what is there: path -> sha256 of a large file, git's hash of another."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(**upload.at, revision=revision, recursive=True)
    files = (entry for entry in tree if isinstance(entry, RepoFile))
    return {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in files}


def _hash(path: Path, like: str) -> str:
    """Hash a file as the Hub did: git's hash (40 digits) or sha256 of its content."""
    git = len(like) == 40
    whole = hashlib.sha1(b"blob %d\0" % path.stat().st_size) if git else hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()
