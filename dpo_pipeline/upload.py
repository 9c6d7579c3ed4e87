"""Bringing a Hub repository to what it shall be: one commit, or none if it is already so.

Everything here reads what is there, compares, and writes what differs. So a lost answer is no
danger, a second run completes the first, and a third finds nothing to do.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub import explain, patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# A file goes only if its name is one of these; one of these that is not sent is an old one.
ALLOWED = {
    "model": re.compile(
        r"(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
        r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map"
        r"|added_tokens|vocab)\.json|vocab\.txt|merges\.txt|(tokenizer|spiece)\.model"
        r"|chat_template\.jinja|README\.md"
    ),
    "dataset": re.compile(r"(data/)?[\w.-]+\.parquet|dataset\.json|README\.md"),
}
# Weights that run code when they load are removed as well.
PICKLES = re.compile(r".*\.(bin|bin\.index\.json|pt|pth|pkl|ckpt)")


@dataclass
class Upload:
    """One repository as it shall be.

    Attributes:
        kind: "model" or "dataset".
        repo: Hub id.
        files: Path in the repository -> file here.
        tags: Tag -> whether it must mark the new commit; one that names the weights may mark
            an older commit with the same weights.
        left_out: Files of the folder that do not go.
    """

    kind: Literal["model", "dataset"]
    repo: str
    files: dict[str, Path]
    tags: dict[str, bool]
    left_out: list[str]

    @property
    def at(self) -> dict[str, Any]:
        """The arguments by which the Hub's client finds the repository."""
        return {"repo_id": self.repo, "repo_type": self.kind}

    def differences(self, remote: Mapping[str, str]) -> dict[str, list[str]]:
        """Compare with the hashes of what is there: added, changed and deleted paths."""
        ours = [p for p in remote if ALLOWED[self.kind].fullmatch(p) or PICKLES.fullmatch(p)]
        kept = remote.keys() & self.files.keys()
        return {
            "added": sorted(self.files.keys() - kept),
            "changed": sorted(p for p in kept if _hash(self.files[p], remote[p]) != remote[p]),
            "deleted": sorted(p for p in ours if p not in kept),
        }


def prepare(api: "HfApi", upload: Upload, *, private: bool) -> str | None:
    """Create the repository if need be, and check what would fail only after the upload.

    Returns:
        The commit that holds the upload already; None where one is to be made.
    Raises:
        PublishError: The repository is public and `private` is true, or has a tag of this run
            elsewhere.
        ValueError: The Hub refuses the metadata of the card.
    """
    from huggingface_hub import RepoCard

    patiently(lambda: api.create_repo(**upload.at, private=private, exist_ok=True))
    info = patiently(lambda: api.repo_info(**upload.at))
    check_private(upload, wanted=private, found=bool(info.private))
    head = str(info.sha)
    differ = upload.differences(patiently(lambda: _remote(api, upload, head)))
    commit = None if any(differ.values()) else head
    _check_tags(upload, patiently(lambda: _tags(api, upload)), commit)
    card = RepoCard(upload.files["README.md"].read_text(encoding="utf-8"))
    patiently(lambda: card.validate(repo_type=upload.kind))
    return commit


def send(api: "HfApi", upload: Upload, *, private: bool) -> dict[str, Any]:
    """Commit what differs from the repository that `prepare` left, verify, and tag.

    Returns:
        What `told` returns, and private, commit, committed.
    Raises:
        PublishError: The repository is public and `private` is true, holds something else than
            what was sent, or has a tag of this run elsewhere.
    """
    first: dict[str, list[str]] = {}

    def bring_up() -> tuple[str, bool]:
        # Each attempt compares anew: the one before may have landed although its answer is lost.
        info = api.repo_info(**upload.at)
        # A repository that exists keeps its visibility, whatever create_repo was told.
        check_private(upload, wanted=private, found=bool(info.private))
        head = str(info.sha)
        differ = upload.differences(_remote(api, upload, head))
        first.update(differ if not first else {})
        if any(differ.values()):
            head = _commit(api, upload, differ, head)
        return head, bool(info.private)

    commit, is_private = patiently(bring_up)
    wrong = upload.differences(patiently(lambda: _remote(api, upload, commit)))
    if names := sorted(name for names in wrong.values() for name in names):
        raise PublishError(
            f"{upload.repo} at {commit[:12]} does not hold what was sent ({', '.join(names)}): "
            "publish again"
        )
    _check_tags(upload, patiently(lambda: _tag(api, upload, commit)), commit)
    committed = any(first.values())
    state = {"private": is_private, "commit": commit, "committed": committed}
    return told(api, upload, first) | state


def rehearse(api: "HfApi", upload: Upload, *, private: bool, out: Path) -> dict[str, Any]:
    """Write what `send` would send, compare it with what is there, and send nothing.

    Returns:
        As `send`; commit is None where one would be made, and note says what could not be read.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    for name, path in upload.files.items():
        if path != out / name:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)
    head, is_private, remote, tags, note = None, private, {}, {}, ""
    try:
        info = api.repo_info(**upload.at)
        head, is_private = info.sha, bool(info.private)
        remote, tags = _remote(api, upload, str(head)), _tags(api, upload)
    except RepositoryNotFoundError:
        note = "not there yet, or not visible to this token"
    except Exception as error:
        note = explain(error, upload.repo, upload.kind) or type(error).__name__
    check_private(upload, wanted=private, found=is_private)
    differ = upload.differences(remote)
    commit = None if any(differ.values()) else head
    _check_tags(upload, tags, commit)
    state = {"private": is_private, "commit": commit, "committed": False, "note": note}
    return told(api, upload, differ) | state


def told(api: "HfApi", upload: Upload, differ: Mapping[str, list[str]]) -> dict[str, Any]:
    """Tell what an upload is: repo, url, tag, added, changed, deleted, unchanged, left_out."""
    folder, tag = "datasets/" if upload.kind == "dataset" else "", next(iter(upload.tags))
    return {
        "repo": upload.repo,
        "url": f"{api.endpoint}/{folder}{upload.repo}/tree/{tag}",
        "tag": tag,
        **differ,
        "unchanged": len(upload.files) - len(differ["added"]) - len(differ["changed"]),
        "left_out": upload.left_out,
    }


def check_private(upload: Upload, *, wanted: bool, found: bool) -> None:
    """Refuse a public repository where a private one was asked for."""
    if wanted and not found:
        raise PublishError(
            f"{upload.kind} {upload.repo} is public, and publish.private is true: make it private "
            "in its settings on the Hub, choose another name, or set publish.private to false"
        )


def _commit(api: "HfApi", upload: Upload, differ: Mapping[str, list[str]], head: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sent = [*differ["added"], *differ["changed"]]
    operations: list[Any] = [CommitOperationAdd(name, str(upload.files[name])) for name in sent]
    operations += [CommitOperationDelete(name) for name in differ["deleted"]]
    message = f"Publish {next(iter(upload.tags))}"
    made = api.create_commit(
        **upload.at, operations=operations, commit_message=message, parent_commit=head
    )
    return str(made.oid)


def _tag(api: "HfApi", upload: Upload, commit: str) -> dict[str, str]:
    """Make the tags that are missing; return all."""
    for tag in upload.tags.keys() - _tags(api, upload):
        api.create_tag(**upload.at, tag=tag, revision=commit, exist_ok=True)
    made = _tags(api, upload)
    if missing := upload.tags.keys() - made:
        raise PublishError(f"{upload.repo} did not keep the tag {', '.join(missing)}: run again")
    return made


def _tags(api: "HfApi", upload: Upload) -> dict[str, str]:
    return {t.name: t.target_commit for t in api.list_repo_refs(**upload.at).tags}


def _check_tags(upload: Upload, found: Mapping[str, str], commit: str | None) -> None:
    """Refuse a tag of this run that marks another commit; None is one still to be made."""
    for tag in (tag for tag, must_be_here in upload.tags.items() if must_be_here):
        if found.get(tag, commit) != commit:
            raise PublishError(
                f"tag {tag} of {upload.repo} marks {found[tag]}, not {commit or 'what would go'}: "
                "a tag does not move; delete it on the Hub, or publish from a new run"
            )


def _remote(api: "HfApi", upload: Upload, revision: str) -> dict[str, str]:
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
