"""Cards: what the Hub shows of a published model or dataset, and what its search reads.

A card depends on what is published and how it was made, on no clock and on no run: the same
model published twice has the same card.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub as hf
import pyarrow.parquet as pq
from pydantic import JsonValue

from dpo_pipeline.evaluation.measures import find
from dpo_pipeline.hub.explanations import explain
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.pairs.lineage import ModelOrigin
from dpo_pipeline.publishing.access import full_name
from dpo_pipeline.publishing.records import Proven
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.report.markdown import escape_markdown
from dpo_pipeline.report.rows import scorecard_rows

logger = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"
TEMPLATES = Path(__file__).parent / "templates"
LICENSE = ("license", "license_name", "license_link")
PLACES = ("name", "location", "path", "source", "general")
SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6))


class Facts(Proven):
    """What both cards tell: of the run, and what is looked up for them.

    Attributes:
        license: What the base model's card says of its license; empty if nothing.
        languages: ISO 639-1 codes of the pairs, sorted.
        forced: Why it is published although the gate failed; null if it passed.
        model_repo: Hub id; null if only the dataset goes.
        dataset_repo: The same; null if only the model goes.
        dataset_commit: What the model's card names of the dataset, once it is known.
    """

    license: dict[str, Any]
    languages: tuple[str, ...]
    forced: str | None
    model_repo: str | None = None
    dataset_repo: str | None = None
    dataset_commit: str | None = None


def gather_facts(
    run: Proven, config: PublishConfig, api: hf.HfApi, user: str, forced: str | None
) -> Facts:
    """Look up what the cards tell beside what the run knows; without paths of this machine."""
    column = pq.read_table(run.dataset / "train.parquet", columns=["language"])["language"]
    told = run.model_dump(mode="json", include={"lineage", "training"})
    return Facts.model_validate(
        {
            **dict(run),
            **{name: public(part) for name, part in told.items()},
            "license": _license(api, run.lineage.model, run.base, needed=not config.dry_run),
            "languages": sorted(
                c for c in column.unique().to_pylist() if re.fullmatch("[a-z]{2}", c)
            ),
            "forced": forced,
            **{f"{kind}_repo": full_name(r, user) for kind, r in config.repositories.items()},
        }
    )


def public(told: JsonValue, name: str = "") -> JsonValue:
    """Cut the paths of this machine, however deep, to their last part."""
    if isinstance(told, dict):
        return {key: public(item, key) for key, item in told.items()}
    if name in PLACES and isinstance(told, str) and told.startswith(("/", "~", ".", "file:")):
        return Path(told).name
    return told


def _license(api: hf.HfApi, base: ModelOrigin, folder: Path, *, needed: bool) -> dict[str, Any]:
    """Read the license of the base model from its card; a dry run goes on without."""
    if base.kind == "starter":
        return {"license": "apache-2.0"}
    card: Mapping[str, Any] | hf.CardData | None = None
    if not base.revision:
        readme = folder / "README.md"
        card = hf.metadata_load(readme) if readme.is_file() else None
    else:
        try:
            card = patiently(lambda: api.model_info(base.name, revision=base.revision)).card_data
        except Exception as error:
            told = explain(error, base.name, "model")
            if needed or not told:
                raise
            logger.warning("license left out: %s", told)
    return {name: card.get(name) for name in LICENSE if card.get(name)} if card else {}


def model_card(facts: Facts, files: Collection[str]) -> str:
    """Write the README.md of a model.

    Args:
        facts: What the run made, from what.
        files: Names of its files, which tell a LoRA adapter and a chat template.
    """
    base, source, adapter = facts.lineage.model, facts.lineage.prompts, ADAPTER in files
    trained_on = [facts.dataset_repo, source.name if source.kind == "hub" else None]
    relation = "adapter" if adapter else "finetune"
    data = hf.ModelCardData(
        **facts.license,
        base_model=base.name if base.revision else None,
        base_model_relation=relation if base.revision else None,
        datasets=[name for name in trained_on if name] or None,
        language=list(facts.languages) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=sorted({"conversational", "dpo", "identity", "trl", *(["lora"] if adapter else [])}),
        model_name=str(facts.model_repo).split("/")[-1],
        eval_results=list(_eval_results(facts)),
    )
    pairs = _link(facts.dataset_repo, facts.dataset_commit, "datasets/")
    card = hf.ModelCard.from_template(
        data,
        str(TEMPLATES / "model_card.md.j2"),
        None,
        **_shared(facts, facts.model_repo),
        lineage=_as_json({**facts.lineage.model_dump(mode="json"), **facts.training}),
        pairs_at=f": {pairs}" if pairs else "",
        measures=scorecard_rows(facts.scorecard),
        examples=[
            [escape_markdown(text) for text in (example.prompt, example.before, example.after)]
            for example in facts.scorecard.examples
        ],
        adapter=adapter,
        chat_template="chat_template.jinja" in files,
    )
    return str(card).rstrip() + "\n"


def dataset_card(facts: Facts, splits: Mapping[str, int]) -> str:
    """Write the README.md of a dataset, with the splits that `load_dataset` reads without code.

    Args:
        facts: What the run made, from what.
        splits: File of each split, data/<split>-00000-of-00001.parquet -> its rows.
    """
    rows, names = sum(splits.values()), {path: path[5:].split("-")[0] for path in splits}
    source, shipped = facts.lineage.prompts, facts.lineage.prompts.kind == "shipped"
    files = [{"split": names[path], "path": path} for path in splits]
    data = hf.DatasetCardData(
        **(facts.license if shipped else {}),
        language=list(facts.languages) or None,
        task_categories=["text-generation"],
        size_categories=[next((name for name, top in SIZES if rows < top), "n>1M")],
        source_datasets=[f"extended|{source.name}" if source.kind == "hub" else "original"],
        tags=sorted({"dpo", "identity", "preference", "trl"}),
        pretty_name=str(facts.dataset_repo).split("/")[-1],
        configs=[{"config_name": "default", "data_files": files}],
    )
    where = "the set that comes with dpo-pipeline" if shipped else source.name
    card = hf.DatasetCard.from_template(
        data,
        str(TEMPLATES / "dataset_card.md.j2"),
        None,
        **_shared(facts, facts.dataset_repo),
        lineage=_as_json(facts.lineage.model_dump(mode="json")),
        splits=[{"name": names[p], "rows": f"{count:,}"} for p, count in splits.items()],
        model_at=_link(facts.model_repo, None),
        source=escape_markdown(where + (f" at {source.revision}" if source.revision else "")),
        shipped=shipped,
    )
    return str(card).rstrip() + "\n"


def _shared(facts: Facts, repo: str | None) -> dict[str, object]:
    identity, verdict = facts.lineage.identity or {}, facts.scorecard.verdict
    base = facts.lineage.model
    return {
        "repo": repo,
        "title": escape_markdown(str(repo).split("/")[-1]),
        "base": _link(base.name if base.revision else None, base.revision)
        or ("the starter model" if base.kind == "starter" else escape_markdown(base.name)),
        "new_name": escape_markdown(str(identity.get("new_name", "its new name"))),
        "original_name": escape_markdown(str(identity.get("original_name", "its old one"))),
        "languages": ", ".join(facts.languages) or "unknown",
        "passed": verdict.passed,
        "failed": ", ".join(find(line.measure).name for line in verdict.failed),
        "forced": escape_markdown(facts.forced) if facts.forced else None,
    }


def _eval_results(facts: Facts) -> Iterator[hf.EvalResult]:
    for name, figure in facts.scorecard.after.items():
        if figure.value is not None:
            measure = find(name)
            kind = measure.basis.kind
            pairs = kind == "pairs" and facts.dataset_repo
            yield hf.EvalResult(
                task_type="text-generation",
                dataset_type=facts.dataset_repo or "identity" if kind == "pairs" else kind,
                dataset_name=measure.basis.title,
                dataset_split="test" if pairs else None,
                dataset_revision=facts.dataset_commit if pairs else None,
                metric_type=name,
                metric_name=measure.name,
                metric_value=round(figure.value, 4),
            )


def _as_json(told: Mapping[str, object]) -> str:
    return json.dumps(told, ensure_ascii=True, indent=1, sort_keys=True)


def _link(repo: str | None, revision: str | None, kind: str = "") -> str:
    """Link a repository at a revision; empty without one."""
    at = f"{hf.constants.ENDPOINT}/{kind}{repo}/tree/{revision or 'main'}"
    return f"[{repo}]({at})" if repo else ""
