"""Cards: what the Hub shows of a published model or dataset, and what its search reads.

A card depends on what is published and how it was made, on no clock and on no run: the same
model published twice has the same card.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub as hf
import pyarrow.parquet as pq
from pydantic import JsonValue

from dpo_pipeline.evaluation.measures import find
from dpo_pipeline.hub.client import RepoType, explain
from dpo_pipeline.hub.retries import patiently
from dpo_pipeline.pairs.schema import ModelOrigin
from dpo_pipeline.publishing.access import full_name
from dpo_pipeline.publishing.evidence import Proven
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.report.words import escape_markdown, scorecard_rows
from dpo_pipeline.store.tables import read_rows

logger = logging.getLogger(__name__)

ADAPTER = "adapter_config.json"
DATA = "data/{}-00000-of-00001.parquet"  # of a split
LICENSE = ("license", "license_name", "license_link")
PLACES = ("name", "location", "path", "source", "general")
SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6))


class Facts(Proven):
    """What both cards tell: of the run, and what is looked up for them."""

    repos: dict[RepoType, str]  # Hub id of each kind that goes
    license: dict[str, Any]  # what the base model's card says of it; empty if nothing
    languages: tuple[str, ...]  # ISO 639-1 codes of the pairs, sorted
    forced: str | None  # why it is published although the gate failed; null if it passed
    dataset_commit: str | None = None  # named by the model's card, once it is known


def gather_facts(run: Proven, config: PublishConfig, api: hf.HfApi, user: str) -> Facts:
    """Look up what the cards tell beside what the run knows; without paths of this machine."""
    spoken = {row["language"] for row in read_rows(run.dataset / "train.parquet", ["language"])}
    told = run.model_dump(mode="json", include={"lineage", "training"})
    return Facts.model_validate(
        {
            **dict(run),
            **{name: public(part) for name, part in told.items()},
            "repos": {kind: full_name(repo, user) for kind, repo in config.repositories.items()},
            "license": _license(api, run.lineage.model, run.base, needed=not config.dry_run),
            "languages": sorted(code for code in spoken if re.fullmatch("[a-z]{2}", code)),
            "forced": None if run.scorecard.verdict.passed else config.force,
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
    readme, card = folder / "README.md", None
    try:
        if base.revision:
            card = patiently(lambda: api.model_info(base.name, revision=base.revision)).card_data
        elif readme.is_file():
            card = hf.RepoCard.load(readme).data
    except Exception as error:
        told = explain(error, base.name, "model")
        if needed or not told:
            raise
        logger.warning("license left out: %s", told)
    return {name: card.get(name) for name in LICENSE if card.get(name)} if card else {}


def write_card(kind: RepoType, facts: Facts, files: Mapping[str, Path]) -> str:
    """Write the README.md of a repository with these files (path in it -> file here)."""
    paths = {split: path for split in ("train", "test") if (path := DATA.format(split)) in files}
    rows = {split: pq.read_metadata(files[path]).num_rows for split, path in paths.items()}
    base = facts.lineage.model
    named = "the starter, a toy model" if base.kind == "starter" else escape_markdown(base.name)
    card = hf.RepoCard.from_template(
        _model_data(facts, files) if kind == "model" else _dataset_data(facts, rows),
        str(Path(__file__).parent / "templates" / f"{kind}_card.md.j2"),
        facts=facts,
        files=files,
        rows=rows,
        repo=facts.repos[kind],
        base=_link(base.name, base.revision) if base.revision else named,
        identity=facts.lineage.identity or {},
        scorecard_rows=scorecard_rows,
        measure=find,
        link=_link,
        text=escape_markdown,
        json=partial(json.dumps, indent=1, sort_keys=True),
    )
    return str(card).rstrip() + "\n"


def _link(repo: str, revision: str | None, kind: str = "") -> str:
    return f"[{repo}]({hf.constants.ENDPOINT}/{kind}{repo}/tree/{revision or 'main'})"


def _model_data(facts: Facts, files: Collection[str]) -> hf.ModelCardData:
    base, source, adapter = facts.lineage.model, facts.lineage.prompts, ADAPTER in files
    trained_on = [facts.repos.get("dataset"), source.name if source.kind == "hub" else None]
    relation = "adapter" if adapter else "finetune"
    return hf.ModelCardData(
        **facts.license,
        base_model=base.name if base.revision else None,
        base_model_relation=relation if base.revision else None,
        datasets=[name for name in trained_on if name] or None,
        language=list(facts.languages) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["conversational", "dpo", "identity", *(["lora"] if adapter else []), "trl"],
        model_name=facts.repos["model"].split("/")[-1],
        eval_results=list(_eval_results(facts)),
    )


def _eval_results(facts: Facts) -> Iterator[hf.EvalResult]:
    dataset = facts.repos.get("dataset")
    for name, figure in facts.scorecard.after.items():
        if figure.value is not None:
            measure = find(name)
            kind = measure.basis.kind
            pairs = kind == "pairs" and dataset
            yield hf.EvalResult(
                task_type="text-generation",
                dataset_type=dataset or "identity" if kind == "pairs" else kind,
                dataset_name=measure.basis.title,
                dataset_split="test" if pairs else None,
                dataset_revision=facts.dataset_commit if pairs else None,
                metric_type=name,
                metric_name=measure.name,
                metric_value=round(figure.value, 4),
            )


def _dataset_data(facts: Facts, rows: Mapping[str, int]) -> hf.DatasetCardData:
    """Describe a dataset, with the splits that `load_dataset` reads without code."""
    source = facts.lineage.prompts
    splits = [{"split": split, "path": DATA.format(split)} for split in rows]
    return hf.DatasetCardData(
        **(facts.license if source.kind == "shipped" else {}),
        language=list(facts.languages) or None,
        task_categories=["text-generation"],
        size_categories=[next((name for name, top in SIZES if sum(rows.values()) < top), "n>1M")],
        source_datasets=[f"extended|{source.name}" if source.kind == "hub" else "original"],
        tags=["dpo", "identity", "preference", "trl"],
        pretty_name=facts.repos["dataset"].split("/")[-1],
        configs=[{"config_name": "default", "data_files": splits}],
    )
