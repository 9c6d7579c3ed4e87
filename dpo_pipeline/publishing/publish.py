"""Publishing to the Hugging Face Hub: with evidence, private, one commit each, or not at all."""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import ModelError, PublishError
from dpo_pipeline.hub.client import set_timeouts
from dpo_pipeline.hub.explanations import explain, masked
from dpo_pipeline.hub.retries import may_pass, patiently
from dpo_pipeline.publishing.cards import Facts, dataset_card, license_of, model_card, public
from dpo_pipeline.publishing.commits import (
    ALLOWED,
    RUN_TAG,
    Upload,
    create,
    examine,
    rehearse,
    send,
)
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.store.digests import digest_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

SECRET_FILES = re.compile(r"\.env.*|.*\.(pem|key|netrc)|id_(rsa|ed25519).*|token|credentials.*")
SPLITS = {"train": "train.parquet", "test": "held_out.parquet"}
PAIRS = re.compile(r"(train|held_out)\.parquet|dataset\.json")


def publish(
    config: PublishConfig,
    *,
    run_id: str,
    model: Path,
    dataset: Path,
    base: Path,
    scorecard: dict[str, Any],
    evidence: dict[str, str],
    lineage: dict[str, Any],
    training: dict[str, Any],
    token: str | None,
    out: Path,
) -> dict[str, Any]:
    """Publish a model and a dataset that passed the gate, or write what would be published.

    Args:
        config: Repositories, visibility, dry run, reason to force.
        run_id: Names the tag `run-<run_id>`.
        model: Folder of the policy; goes where `config.model_repo` is set.
        dataset: Folder of the save stage; goes where `config.dataset_repo` is set.
        base: Folder of the reference; one that is not from the Hub may name a license here.
        scorecard: Verdict, measures before and after, examples.
        evidence: What the scorecard was measured on: `weights_digest` and `template_digest`
            of the policy as `describe_model` gives them, `dataset_digest` of the dataset.
        lineage: What the pairs were made from; shown in both cards.
        training: How the policy was trained and judged; shown in its card.
        token: Token with write access; a dry run does with less or none.
        out: Empty folder; gets the cards, in a dry run all other files, and publish.json.
    Returns:
        dry_run, forced, note, and for model and dataset: repo, url, private, commit, tag,
        committed, added, changed, deleted, unchanged, left_out. publish.json says the same,
        and after a failure what was done before.
    Raises:
        PublishError: The evidence, the token, a repository or the Hub refuses. No repository
            is left half done.
    """
    with _telling(token):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", run_id):
            raise PublishError(f"run id {run_id!r} cannot name a tag: use letters, digits, . _ -")
        forced = _check_evidence(config, model, dataset, scorecard, evidence)
        api, user, note = _reach(config, token)
        facts = Facts(
            scorecard=scorecard,
            lineage=public(lineage),
            training=public(training),
            license=_license(api, lineage, base, needed=not config.dry_run),
            languages=_languages(dataset),
            forced=forced,
            **{
                f"{kind}_repo": _full_name(repo, user)
                for kind, repo in repositories(config).items()
            },
        )
        _refuse_secrets("\n".join(_texts(facts.model_dump())), "what the cards tell", token)
        tag = f"{RUN_TAG}{run_id}"
        uploads = [_dataset_upload(facts, dataset, tag, token)] if facts.dataset_repo else []
        uploads += [_model_upload(facts, model, tag, token, out)] if facts.model_repo else []
        result: dict[str, Any] = {"dry_run": config.dry_run, "forced": forced, "note": note}
        # Both pass every check before either goes.
        for upload in uploads:
            _write_card(facts, upload, out)
            with _telling(token, upload):
                if config.dry_run:
                    done = rehearse(api, upload, private=config.private, out=out)
                    result[upload.kind], commit = done, done["commit"]
                else:
                    commit = examine(api, upload, private=config.private)
            facts = _naming(facts, upload, commit)
        _record(result, out)
        if not config.dry_run:
            _send_all(api, facts, uploads, result, config, token, out)
    return result


def _send_all(
    api: "HfApi",
    facts: Facts,
    uploads: Sequence[Upload],
    result: dict[str, Any],
    config: PublishConfig,
    token: str | None,
    out: Path,
) -> None:
    for upload in uploads:
        with _telling(token, upload):
            create(api, upload, private=config.private)
    landed: list[str] = []
    for upload in uploads:
        _write_card(facts, upload, out)
        with _telling(token, upload, landed):
            result[upload.kind] = done = send(api, upload, private=config.private)
        _record(result, out)
        landed.append(f"{upload.kind} {upload.repo} is at commit {done['commit']}")
        facts = _naming(facts, upload, done["commit"])


def _record(result: Mapping[str, Any], out: Path) -> None:
    _write(out / "publish.json", json.dumps(result, indent=1))


def repositories(config: PublishConfig) -> dict[str, str]:
    """Return what is to be published: "dataset" and "model" -> repository."""
    repos = {"dataset": config.dataset_repo, "model": config.model_repo}
    return {kind: repo for kind, repo in repos.items() if repo}


def find_token() -> str | None:
    """Return the token of the environment (HF_TOKEN), else of the stored login, if there is one."""
    from huggingface_hub import get_token

    return get_token()


def check_access(config: PublishConfig, token: str | None) -> str:
    """Check that the token may write to the configured repositories; return its user.

    Raises:
        PublishError: There is none, it may not, or offline mode is on.
    """
    from huggingface_hub import HfApi, constants

    with _telling(token):
        if constants.is_offline_mode():
            raise PublishError("HF_HUB_OFFLINE is set: unset it to publish")
        if not token:
            raise PublishError(
                "no Hub token: set HF_TOKEN, run `hf auth login`, or name a Prefect Secret block "
                "in publish.token_block; the token needs write access"
            )
        set_timeouts()
        return check_token(HfApi(token=token), repositories(config))


def _reach(config: PublishConfig, token: str | None) -> tuple["HfApi", str, str]:
    """Return a client, its user, and what publishing would lack, which only stops a real one."""
    from huggingface_hub import HfApi

    set_timeouts()
    api = HfApi(token=token or False)
    try:
        return api, check_access(config, token), ""
    except PublishError as error:
        if not config.dry_run:
            raise
        return api, "", str(error)


def check_token(api: "HfApi", repos: Mapping[str, str]) -> str:
    """Check that the token may write to these repositories (kind -> name); return its user.

    Raises:
        PublishError: It may only read, or does not cover one of them.
    """
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
            full = _full_name(repo, name).lower()
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


def dataset_digest(folder: Path) -> str:
    """Digest a dataset folder: file names and their sha256, as the store does."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
        with path.open("rb") as handle:
            digests[str(path.relative_to(folder))] = file_digest(handle, "sha256").hexdigest()
    return digest_of(digests)


def _check_evidence(
    config: PublishConfig,
    model: Path,
    dataset: Path,
    scorecard: Mapping[str, Any],
    evidence: Mapping[str, str],
) -> str | None:
    """Refuse what was not measured; return the reason where a failed gate is overruled."""
    from dpo_pipeline.models.references import describe_model

    if not repositories(config):
        raise PublishError(
            "nothing to publish: set publish.model_repo or publish.dataset_repo to a Hub id"
        )
    ref = describe_model(model, "the policy")
    found = {
        "weights_digest": ref.weights_digest,
        "template_digest": ref.template_digest,
        "dataset_digest": dataset_digest(dataset),
    }
    for name, digest in found.items():
        if evidence.get(name) != digest:
            raise PublishError(
                f"the scorecard is of another {name.split('_')[0]}: it was measured on "
                f"{str(evidence.get(name))[:12]} and this is {digest[:12]}; evaluate again"
            )
    verdict = scorecard["verdict"]
    if verdict["passed"]:
        return None
    if config.force is None:
        failed = ", ".join(line["measure"] for line in verdict["failed"])
        raise PublishError(
            f"the gate failed ({failed}): train again, or give a reason in publish.force, which "
            "the cards will show"
        )
    return config.force


def _license(
    api: "HfApi", lineage: Mapping[str, Any], base: Path, *, needed: bool
) -> dict[str, Any]:
    """Read the license of the base model from its card; a dry run goes on without."""
    from huggingface_hub import metadata_load

    name, revision = lineage["model"]["name"], lineage["model"].get("revision")
    if lineage["model"].get("kind") == "starter":
        return {"license": "apache-2.0"}
    if not revision:
        readme = base / "README.md"
        return license_of((metadata_load(readme) or {}) if readme.is_file() else {})
    try:
        card = patiently(lambda: api.model_info(name, revision=revision)).card_data
    except Exception as error:
        told = explain(error, name, "model")
        if needed or not told:
            raise
        logger.warning("license left out: %s", told)
        return {}
    return license_of(card or {})


def _languages(dataset: Path) -> tuple[str, ...]:
    import pyarrow.parquet as pq

    column = pq.read_table(dataset / "train.parquet", columns=["language"])["language"]
    return tuple(sorted(c for c in column.unique().to_pylist() if re.fullmatch("[a-z]{2}", c)))


def _full_name(repo: str, user: str) -> str:
    return f"{user}/{repo}" if user and "/" not in repo else repo


def _dataset_upload(facts: Facts, folder: Path, tag: str, token: str | None) -> Upload:
    import pyarrow.parquet as pq

    found, left_out = _listed(folder, PAIRS, token)
    files = {"dataset.json": found.pop("dataset.json")}
    for split, name in SPLITS.items():
        # load_dataset cannot tell the columns of a split without rows.
        if pq.read_metadata(found[name]).num_rows:
            files[f"data/{split}-00000-of-00001.parquet"] = found.pop(name)
    for name, path in files.items():
        if path.suffix == ".parquet":
            _refuse_secrets_in_rows(path, name, token)
    return Upload("dataset", str(facts.dataset_repo), files, tag, [*found, *left_out])


def _model_upload(facts: Facts, folder: Path, tag: str, token: str | None, out: Path) -> Upload:
    files, left_out = _listed(folder, ALLOWED["model"], token)
    if adapter := files.get("adapter_config.json"):
        if facts.base_revision is None:
            raise PublishError(
                f"an adapter is of no use without its base, and {facts.base} is not on the Hub: "
                "set train.lora.merge to true"
            )
        # Training wrote where the base lies on this machine.
        settings = json.loads(adapter.read_text(encoding="utf-8"))
        settings |= {"base_model_name_or_path": facts.base, "revision": facts.base_revision}
        path = out / "model" / adapter.name
        files[adapter.name] = _write(path, json.dumps(settings, indent=2) + "\n")
    return Upload("model", str(facts.model_repo), files, tag, left_out)


def _listed(
    folder: Path, allowed: re.Pattern[str], token: str | None
) -> tuple[dict[str, Path], list[str]]:
    """List what may go, and what stays here; links and secrets stop everything."""
    files, left_out = {}, []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise PublishError(f"{name} is a link, which may lead anywhere: copy the file instead")
        if SECRET_FILES.fullmatch(path.name.lower()):
            raise PublishError(f"{name} may hold a secret: take it out of {folder.name}/")
        if path.is_file() and allowed.fullmatch(name):
            files[name] = path
            if path.suffix not in (".safetensors", ".parquet"):
                _refuse_secrets(path.read_text(encoding="utf-8", errors="replace"), name, token)
        elif path.is_file():
            left_out.append(name)
    return files, left_out


def _refuse_secrets(text: str, name: str, token: str | None) -> None:
    if masked(text, token) != text:
        raise PublishError(f"{name} holds what looks like a Hub token: take it out")


def _refuse_secrets_in_rows(path: Path, name: str, token: str | None) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for column, values in zip(batch.schema.names, batch.columns, strict=True):
                text = "\n".join(_texts(values.to_pylist()))
                _refuse_secrets(text, f"{name}, column {column},", token)


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, however deep, as they are: escaping would hide a token."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _write_card(facts: Facts, upload: Upload, out: Path) -> None:
    import pyarrow.parquet as pq

    if upload.kind == "model":
        card = model_card(facts, upload.files)
    else:
        rows = {p: pq.read_metadata(f).num_rows for p, f in upload.files.items() if "/" in p}
        card = dataset_card(facts, rows)
    upload.files["README.md"] = _write(out / upload.kind / "README.md", card)


def _naming(facts: Facts, upload: Upload, commit: str | None) -> Facts:
    """Let the model's card name the commit of the dataset it was trained on."""
    return facts.model_copy(update={"dataset_commit": commit} if upload.kind == "dataset" else {})


@contextmanager
def _telling(
    token: str | None, upload: Upload | None = None, landed: Sequence[str] = ()
) -> Iterator[None]:
    """Turn every failure into one that says what to do, what is done, and holds no token."""
    try:
        yield
    except Exception as error:
        known = explain(error, upload.repo, upload.kind) if upload else explain(error)
        if isinstance(error, PublishError | ModelError):
            known = str(error)
        told = known or f"publishing stopped: {type(error).__name__}: {error}"
        told += "; publishing again completes what is missing" if may_pass(error) else ""
        told += f"; done before: {', '.join(landed)}" if landed else ""
        # No cause: the Hub's errors hold the request, and the request the token.
        raise PublishError(masked(told, token)) from None


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
