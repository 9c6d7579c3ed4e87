"""Evidence: a verdict counts for the very bytes that were measured, and for no others."""

from pathlib import Path

from pydantic import JsonValue

from dpo_pipeline.errors import PublishError
from dpo_pipeline.evaluation.scorecard import Evidence, Scorecard
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.pairs.schema import Lineage
from dpo_pipeline.store.artifacts import MANIFEST
from dpo_pipeline.store.digests import digest_of, file_digest
from dpo_pipeline.store.records import Record


class Proven(Record):
    """What a run made, and what vouches for it."""

    run_id: str  # names the tag
    model: Path  # folder of the policy
    dataset: Path  # folder of the save stage
    base: Path  # folder of the reference; one that is not from the Hub may name a license here
    evidence: Evidence  # what the scorecard was measured on
    scorecard: Scorecard
    lineage: Lineage  # shown in both cards
    training: dict[str, JsonValue]  # settings of training and judging, shown in the model's card


def dataset_digest(folder: Path) -> str:
    """Digest a dataset folder: file names and their sha256, as the store does."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return digest_of({str(p.relative_to(folder)): file_digest(p) for p in files})


def digest_evidence(model: Path, dataset: Path) -> Evidence:
    """Digest what lies in these folders."""
    policy = dict(describe_model(model, "the policy"))
    return Evidence.model_validate(policy | {"dataset_digest": dataset_digest(dataset)})


def check_evidence(run: Proven, force: str | None) -> None:
    """Refuse what was not measured, or failed the gate and is not forced.

    Raises:
        PublishError: A folder holds something else, or the gate failed and there is no reason.
    """
    for name, digest in digest_evidence(run.model, run.dataset):
        measured = getattr(run.evidence, name)
        if measured != digest:
            raise PublishError(
                f"the scorecard is of another {name.split('_')[0]}: it was measured on "
                f"{measured[:12] or 'none'} and this is {digest[:12]}; evaluate again"
            )
    verdict = run.scorecard.verdict
    if not verdict.passed and force is None:
        failed = ", ".join(line.measure for line in verdict.failed)
        raise PublishError(
            f"the gate failed ({failed}): train again, or give a reason in publish.force, which "
            "the cards will show"
        )
