"""Publishing to the Hugging Face Hub: with evidence, private, one commit each, or not at all."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.cards import Facts, dataset_card, model_card, public
from dpo_pipeline.config import PublishConfig
from dpo_pipeline.errors import ModelError, PublishError
from dpo_pipeline.hub import explain, patiently, set_timeouts
from dpo_pipeline.keys import digest_of
from dpo_pipeline.upload import ALLOWED, Upload, prepare, rehearse, send

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("dpo_pipeline.publishing")

SECRET_FILES = re.compile(r"\.env.*|.*\.(pem|key|netrc)|id_(rsa|ed25519).*|token|credentials.*")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
SPLITS = {"train": "train.parquet", "test": "held_out.parquet"}


def publish(
    config: PublishConfig,
    *,
    run_id: str,
    model: Path | None,
    dataset: Path | None,
    scorecard: dict[str, Any],
    evidence: dict[str, str],
    lineage: dict[str, Any],
    token: str | None,
    out: Path,
) -> dict[str, Any]:
    """Publish a model and a dataset that passed the gate, or write what would be published.

    Args:
        config: Repositories, visibility, dry run, reason to force.
        run_id: Names the tag `run-<run_id>`.
        model: Folder of the policy; goes where `config.model_repo` is set.
        dataset: Folder of the save stage; goes where `config.dataset_repo` is set.
        scorecard: Verdict, measures before and after, examples.
        evidence: What the scorecard was measured on: `weights_digest` (and `template_digest`)
            of the policy as `describe_model` gives them, `dataset_digest` of the dataset.
        lineage: What the run was made from; shown in the cards.
        token: Token with write access; a dry run does with less or none.
        out: Empty folder; gets the cards, in a dry run all other files, and publish.json.
    Returns:
        dry_run, forced, and for model and dataset: repo, url, private, commit, tag, committed,
        added, changed, deleted, unchanged, left_out.
    Raises:
        PublishError: The evidence, the token, the repository or the Hub refuses. Nothing is
            half done then; publishing again completes what is missing.
    """
    repos = [repo for repo in (config.model_repo, config.dataset_repo) if repo]
    policy = model if config.model_repo else None
    pairs = dataset if config.dataset_repo else None
    with _telling(token, repos):
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", run_id):
            raise PublishError(f"run id {run_id!r} cannot name a tag: use letters, digits, . _ -")
        forced = _check_evidence(config, policy, pairs, scorecard, evidence)
        api, user = _connect(config, token, repos)
        tag = f"run-{run_id}"
        facts = Facts(
            scorecard=scorecard,
            lineage=public(lineage),
            **_license(api, lineage, needed=not config.dry_run),
            languages=_languages(dataset),
            forced=forced,
            model_repo=_full_name(config.model_repo, user) if policy else None,
            model_tag=f"weights-{evidence['weights_digest'][:12]}" if policy else None,
            dataset_repo=_full_name(config.dataset_repo, user) if pairs else None,
        )
        _refuse_secrets("\n".join(_texts(facts.model_dump())), "what the cards tell", token)
        uploads = [_dataset_upload(facts, pairs, tag, token)] if pairs else []
        uploads += [_model_upload(facts, policy, tag, token, out)] if policy else []
        result: dict[str, Any] = {"dry_run": config.dry_run, "forced": forced}
        # Both pass every check before either goes.
        for upload in uploads:
            _write_card(facts, upload, out)
            if config.dry_run:
                place = out / upload.kind
                done = rehearse(api, upload, private=config.private, out=place)
                result[upload.kind], commit = done, done["commit"]
            else:
                commit = prepare(api, upload, private=config.private)
            facts = _naming(facts, upload, commit)
        for upload in uploads if not config.dry_run else ():
            _write_card(facts, upload, out)
            result[upload.kind] = done = send(api, upload, private=config.private)
            facts = _naming(facts, upload, done["commit"])
        (out / "publish.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def find_token() -> str:
    """Return the token of the environment (HF_TOKEN) or of the stored login.

    Raises:
        PublishError: There is neither.
    """
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise PublishError(
            "no Hub token: set HF_TOKEN, run `hf auth login`, or name a Prefect Secret block in "
            "publish.token_block; the token needs write access"
        )
    return token


def check_token(api: "HfApi", repos: Iterable[str] = ()) -> str:
    """Check that the token may write to the owners of these repositories; return its user.

    Raises:
        PublishError: It may only read.
    """
    who = patiently(api.whoami)
    name, access = str(who["name"]), who.get("auth", {}).get("accessToken", {})
    may_write = access.get("role") == "write"
    if access.get("role") == "fineGrained":
        scopes = access.get("fineGrained", {}).get("scoped", [])
        writable = {s["entity"]["name"] for s in scopes if "repo.write" in s["permissions"]}
        full = {r if "/" in r else f"{name}/{r}" for r in repos}
        may_write = all({r, r.split("/")[0]} & writable for r in full)
    if not may_write:
        raise PublishError(
            f"the Hub token of {name} may only read: make one with write access at "
            f"{api.endpoint}/settings/tokens"
        )
    return name


def dataset_digest(folder: Path) -> str:
    """Digest a dataset folder: file names and their sha256, as the store does."""
    digests = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
        with path.open("rb") as handle:
            digests[str(path.relative_to(folder))] = file_digest(handle, "sha256").hexdigest()
    return digest_of(digests)


def masked(text: str, token: str | None) -> str:
    """Hide the token, and whatever looks like one."""
    return TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)


def _check_evidence(
    config: PublishConfig,
    model: Path | None,
    dataset: Path | None,
    scorecard: Mapping[str, Any],
    evidence: Mapping[str, str],
) -> str | None:
    """Refuse what was not measured; return the reason where a failed gate is overruled."""
    from dpo_pipeline.models import describe_model

    found: dict[str, str] = {}
    if model:
        ref = describe_model(model, "the policy")
        found["weights_digest"] = ref.weights_digest
        if "template_digest" in evidence:
            found["template_digest"] = ref.template_digest
    if dataset:
        found["dataset_digest"] = dataset_digest(dataset)
    if not found:
        raise PublishError(
            "nothing to publish: set publish.model_repo or publish.dataset_repo to a Hub id"
        )
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


def _connect(config: PublishConfig, token: str | None, repos: list[str]) -> tuple["HfApi", str]:
    from huggingface_hub import HfApi, constants

    set_timeouts()
    api = HfApi(token=token or False)
    if config.dry_run:
        return api, ""
    if constants.is_offline_mode():
        raise PublishError("HF_HUB_OFFLINE is set: unset it to publish, or make a dry run")
    return api, check_token(api, repos)


def _license(api: "HfApi", lineage: Mapping[str, Any], *, needed: bool) -> dict[str, str | None]:
    """Read the license of the base model from its card; a dry run goes on without."""
    name, revision = lineage["model"]["name"], lineage["model"].get("revision")
    if name == "starter":
        return {"license": "apache-2.0"}
    if not revision:
        return {}
    try:
        card = patiently(lambda: api.model_info(name, revision=revision)).card_data
    except Exception as error:
        if needed:
            raise
        log.warning("license left out: %s", explain(error, name, "model") or type(error).__name__)
        return {}
    return {k: card.get(k) for k in ("license", "license_name", "license_link")} if card else {}


def _languages(dataset: Path | None) -> tuple[str, ...]:
    import pyarrow.parquet as pq

    if dataset is None:
        return ()
    column = pq.read_table(dataset / "train.parquet", columns=["language"])["language"]
    return tuple(sorted(c for c in column.unique().to_pylist() if re.fullmatch("[a-z]{2}", c)))


def _full_name(repo: str | None, user: str) -> str | None:
    return f"{user}/{repo}" if repo and user and "/" not in repo else repo


def _dataset_upload(facts: Facts, folder: Path, tag: str, token: str | None) -> Upload:
    import pyarrow.parquet as pq

    found, left_out = _listed(folder, ALLOWED["dataset"], token)
    files = {"dataset.json": found.pop("dataset.json")}
    for split, name in SPLITS.items():
        # load_dataset cannot tell the columns of a split without rows.
        if pq.read_metadata(found[name]).num_rows:
            files[f"data/{split}-00000-of-00001.parquet"] = found.pop(name)
    for name, path in files.items():
        if path.suffix == ".parquet":
            _refuse_secrets_in_rows(path, name, token)
    return Upload("dataset", str(facts.dataset_repo), files, {tag: True}, [*found, *left_out])


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
    tags = {tag: True, str(facts.model_tag): False}
    return Upload("model", str(facts.model_repo), files, tags, left_out)


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
def _telling(token: str | None, repos: list[str]) -> Iterator[None]:
    """Turn every failure into one that says what to do and holds no token."""
    try:
        yield
    except (PublishError, ModelError) as error:
        # No cause: the Hub's errors hold the request, and the request the token.
        raise PublishError(masked(str(error), token)) from None
    except Exception as error:
        told = explain(error, " and ".join(repos), "repository")
        told = told or f"publishing stopped: {type(error).__name__}: {error}"
        told += " (publishing again completes what is missing)"
        raise PublishError(masked(told, token)) from None


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
