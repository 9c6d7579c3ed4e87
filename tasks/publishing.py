"""To the Hub, with evidence: the token is read here and goes nowhere else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.blocks.system import Secret

from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.errors import PublishError
from dpo_pipeline.evaluation.scorecard import Scorecard, ScoreStats
from dpo_pipeline.models.references import ModelStats
from dpo_pipeline.pairs.dataset import DatasetStats
from dpo_pipeline.pairs.schema import Metadata
from dpo_pipeline.publishing.evidence import Proven
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.files import explained
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.training.run import TrainStats
from tasks.run import Run
from tasks.runners import UNCACHED
from tasks.stage import model_of

if TYPE_CHECKING:
    from dpo_pipeline.publishing.publish import Published


@task(name="publish", **UNCACHED)
def publish(config: PublishConfig, proven: Proven, out: Path) -> "Published":
    """Publish to the Hub what the gate passed for."""
    from dpo_pipeline.publishing.publish import publish

    with explained(out):
        return publish(config, proven, token=_read_token(config), out=out)


def check_publishing(config: PublishConfig) -> None:
    """Stop before hours of work where nothing could be published after them.

    Raises:
        PublishError: Something is to be sent, and there is no token that may, or no network.
    """
    if (config.model_repo or config.dataset_repo) and not config.dry_run:
        from dpo_pipeline.publishing.access import check_access

        check_access(config, _read_token(config))


def publish_if_proven(
    run: Run,
    config: PipelineConfig,
    reference: Artifact[ModelStats],
    dataset: Artifact[DatasetStats],
    policy: Artifact[TrainStats],
    score: Artifact[ScoreStats],
) -> None:
    """Publish what the configuration names, if the gate passed or is overruled.

    What went to the Hub, or would have, comes into summary.json; also what went before an error.

    Raises:
        PublishError: The evidence, the token or the Hub refuses.
    """
    wanted = config.publish
    if not (wanted.model_repo or wanted.dataset_repo):
        return
    if not (score.stats.verdict.passed or wanted.force):
        run.say("publish   nothing: the gate failed; publish.force overrules it, with a reason")
        return
    from dpo_pipeline.publishing.publish import Published

    out = run.folder / "publish"
    out.mkdir(parents=True)
    sections = ("train", "evaluation", "gate")
    proven = Proven(
        run_id=run.run_id,
        model=model_of(policy).path,
        dataset=dataset.path,
        base=model_of(reference).path,
        scorecard=Scorecard.read(score.path / "scorecard.json"),
        evidence=score.stats.evidence,
        lineage=Metadata.read(dataset.path / "dataset.json").lineage,
        training={name: settings_of(getattr(config, name)) for name in sections},
    )
    try:
        publish(wanted, proven, out)
    finally:
        if (record := out / "publish.json").exists():
            run.add_to_summary(published=json.loads(record.read_text(encoding="utf-8")))
            for line in _describe(Published.read(record), out):
                run.say(f"publish   {line}")


def _describe(done: "Published", out: Path) -> Iterator[str]:
    """Say of each repository what came or would come of it, and how to go on."""
    for kind, to in (("dataset", done.dataset), ("model", done.model)):
        if to is None:
            continue
        signs = {"+": to.added, "~": to.changed, "-": to.deleted}
        counts = " ".join(f"{sign}{len(paths)}" for sign, paths in signs.items())
        counts += f", {to.unchanged} unchanged"
        state = to.note or ("new commit" if to.committed else "")
        where = to.repo if done.dry_run else to.url
        lost = f"; deletes {', '.join(to.deleted)}" if to.deleted else ""
        yield f"{kind} {where}: {counts}{f' ({state})' if state else ''}{lost}"
    if done.dry_run:
        yield f"nothing was sent: look into {out}, then add --no-publish.dry-run"
        if done.note:
            yield f"it would fail now: {done.note}"


def _read_token(config: PublishConfig) -> str | None:
    """Read the token: the Prefect Secret block, else the environment, else the stored login."""
    from huggingface_hub import get_token

    name = config.token_block
    if name is None:
        return get_token()
    try:
        secret = Secret.load(name).get()  # type: ignore[union-attr]
    except ValueError:
        raise PublishError(
            f"publish.token_block: Prefect has no Secret block {name!r}: make one (see Publishing "
            "in the README), or leave the option out, and HF_TOKEN or the stored login is used"
        ) from None
    if not isinstance(secret, str) or not secret.strip():
        raise PublishError(f"the Secret block {name!r} holds no text: store the token itself in it")
    return secret.strip()
