"""Bringing a Hub repository to what it shall be: one commit, or none if it is already so.

Everything here reads what is there, compares, and writes what differs. So a lost answer is no
danger, a second run completes the first, and a third finds nothing to do.
"""

import difflib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub.explanations import explain
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.publishing.records import Differences, Uploaded
from dpo_pipeline.publishing.uploads import ALLOWED, RUN_TAG, Upload
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.files import write_whole


@dataclass(frozen=True)
class Remote:
    """A repository as it is: head, files (path -> hash as the Hub gives it), tags -> commit."""

    head: str | None = None
    private: bool = True
    files: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def examine(api: HfApi, upload: Upload, *, private: bool) -> Uploaded:
    """Check what would fail later, before anything is made or sent.

    Raises:
        PublishError: As `compare`.
        ValueError: The Hub refuses the metadata of the card.
    """
    card = RepoCard(upload.files["README.md"].read_text(encoding="utf-8"))
    patiently(lambda: card.validate(repo_type=upload.kind))
    try:
        remote = patiently(lambda: _look(api, upload))
    except RepositoryNotFoundError:
        remote = Remote(private=private)
    return _tell(api, upload, compare(upload, remote, private=private), remote)


def create(api: HfApi, upload: Upload, *, private: bool) -> None:
    """Create the repository, if it is not there."""
    patiently(
        lambda: api.create_repo(upload.repo, repo_type=upload.kind, private=private, exist_ok=True)
    )


def send(api: HfApi, upload: Upload, *, private: bool) -> Uploaded:
    """Commit what differs from what is there, verify, and tag.

    Raises:
        PublishError: As `compare`; or the repository does not hold what was sent.
    """
    found: list[Differences] = []

    def bring_up() -> Remote:
        # Each attempt compares anew: the one before may have landed although its answer is lost.
        # A repository that exists keeps its visibility, whatever create_repo was told.
        remote = _look(api, upload)
        found.append(compare(upload, remote, private=private))
        if found[-1].paths:
            remote = replace(remote, head=_commit(api, upload, found[-1], remote.head))
        return remote

    remote = patiently(bring_up)
    commit = str(remote.head)
    if wrong := differences(upload, patiently(lambda: _files(api, upload, commit))).paths:
        raise PublishError(
            f"{upload.repo} at {commit[:12]} does not hold what was sent "
            f"({', '.join(sorted(wrong))}): publish again"
        )
    patiently(lambda: _tag(api, upload, commit))
    done = {"commit": commit, "committed": bool(found[0].paths)}
    return _tell(api, upload, found[0], remote).model_copy(update=done)


def rehearse(api: HfApi, upload: Upload, *, private: bool, out: Path) -> Uploaded:
    """Write what `send` would send, compare it with what is there, and send nothing.

    Args:
        api: Client.
        upload: What would go.
        private: Whether a public repository is refused.
        out: Gets the files in a folder of the kind, and beside it the changes to the README.
    """
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
    return _tell(api, upload, compare(upload, remote, private=private), remote, note)


def compare(upload: Upload, remote: Remote, *, private: bool) -> Differences:
    """Tell what would be added, changed and deleted, if that may be.

    Raises:
        PublishError: The repository is public and `private` is true, has a tag of this run
            elsewhere, or holds files that no run put there and that would be lost.
    """
    if private and not remote.private:
        raise PublishError(
            f"{upload.kind} {upload.repo} is public, and publish.private is true: make it private "
            "in its settings on the Hub, choose another name, or set publish.private to false"
        )
    differ = differences(upload, remote.files)
    in_the_way = differ.changed + differ.deleted
    if in_the_way and not any(tag.startswith(RUN_TAG) for tag in remote.tags):
        raise PublishError(
            f"{upload.kind} {upload.repo} holds {', '.join(in_the_way)}, and no run of this "
            "pipeline put that there: choose another name, or delete these files on the Hub"
        )
    marked = remote.tags.get(upload.tag)
    if marked and (differ.paths or marked != remote.head):
        raise PublishError(
            f"tag {upload.tag} of {upload.repo} marks {marked}, not what would go: a tag does not "
            "move; delete it on the Hub, or publish from a new run"
        )
    return differ


def differences(upload: Upload, there: Mapping[str, str]) -> Differences:
    """Compare with the hashes of what is there: git's (40 digits), or sha256 of a large file."""
    files, kept = upload.files, there.keys() & upload.files.keys()
    own = {
        p: git_hash(files[p].read_bytes()) if len(there[p]) == 40 else file_digest(files[p])
        for p in kept
    }
    return Differences(
        added=sorted(files.keys() - kept),
        changed=sorted(p for p in kept if own[p] != there[p]),
        deleted=sorted(p for p in there.keys() - kept if ALLOWED[upload.kind].fullmatch(p)),
    )


def _tell(
    api: HfApi, upload: Upload, differ: Differences, remote: Remote, note: str = ""
) -> Uploaded:
    folder = "datasets/" if upload.kind == "dataset" else ""
    return Uploaded(
        **dict(differ),
        repo=upload.repo,
        url=f"{api.endpoint}/{folder}{upload.repo}/tree/{upload.tag}",
        tag=upload.tag,
        unchanged=len(upload.files) - len(differ.added) - len(differ.changed),
        left_out=upload.left_out,
        private=remote.private,
        commit=None if differ.paths else remote.head,
        note=note,
    )


def _write_readme_diff(api: HfApi, upload: Upload, remote: Remote, path: Path) -> None:
    there = api.hf_hub_download(
        upload.repo, "README.md", repo_type=upload.kind, revision=remote.head
    )
    before, after = (
        Path(readme).read_text(encoding="utf-8").splitlines(keepends=True)
        for readme in (there, upload.files["README.md"])
    )
    lines = difflib.unified_diff(before, after, f"{upload.repo}/README.md", "README.md")
    write_whole(path, "".join(lines))


def _commit(api: HfApi, upload: Upload, differ: Differences, head: str | None) -> str:
    sent = [*differ.added, *differ.changed]
    made = api.create_commit(
        upload.repo,
        [
            *(CommitOperationAdd(name, str(upload.files[name])) for name in sent),
            *(CommitOperationDelete(name) for name in differ.deleted),
        ],
        commit_message=f"Publish {upload.tag}",
        repo_type=upload.kind,
        parent_commit=head,
    )
    return str(made.oid)


def _tag(api: HfApi, upload: Upload, commit: str) -> None:
    if upload.tag not in _tags(api, upload):
        api.create_tag(
            upload.repo, tag=upload.tag, revision=commit, repo_type=upload.kind, exist_ok=True
        )
    if (marked := _tags(api, upload).get(upload.tag)) != commit:
        raise PublishError(
            f"{upload.repo} has {commit}, and its tag {upload.tag} marks {marked or 'nothing'}: "
            "delete the tag on the Hub, and publish again"
        )


def _look(api: HfApi, upload: Upload) -> Remote:
    info = api.repo_info(upload.repo, repo_type=upload.kind)
    head = str(info.sha)
    return Remote(head, bool(info.private), _files(api, upload, head), _tags(api, upload))


def _tags(api: HfApi, upload: Upload) -> dict[str, str]:
    refs = api.list_repo_refs(upload.repo, repo_type=upload.kind)
    return {tag.name: tag.target_commit for tag in refs.tags}


def _files(api: HfApi, upload: Upload, revision: str) -> dict[str, str]:
    tree = api.list_repo_tree(upload.repo, repo_type=upload.kind, revision=revision, recursive=True)
    files = (entry for entry in tree if isinstance(entry, RepoFile))
    return {f.path: f.lfs.sha256 if f.lfs else f.blob_id for f in files}
