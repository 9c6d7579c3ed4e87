"""Cards: what the Hub shows of a published model or dataset, and what its search reads.

A card depends on what is published and how it was made, on no clock and on no run: the same
model published twice has the same card.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.report.page import escape_markdown, label, scorecard_rows

LICENSE = ("license", "license_name", "license_link")
GENERAL = ("general", "third_party", "kl", "new_name_unasked")
PAIRS = ("preference_", "reward_", "tail_")
PLACES = ("name", "location", "path", "source", "general")
SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6))


class Facts(BaseModel):
    """What both cards tell.

    Attributes:
        scorecard: Verdict, measures before and after, examples.
        lineage: What the pairs were made from; machine paths already cut to names.
        training: How the model was trained and judged.
        license: What the base model's card says of its license; empty if it has none.
        languages: ISO 639-1 codes of the pairs, sorted.
        forced: Why it is published although the gate failed; None if it passed.
        model_repo: Hub id of the published model; None if only the dataset goes.
        dataset_repo: Hub id of the published dataset; None if only the model goes.
        dataset_commit: Its commit.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    scorecard: dict[str, Any]
    lineage: dict[str, Any]
    training: dict[str, Any] = {}
    license: dict[str, Any] = {}
    languages: tuple[str, ...] = ()
    forced: str | None = None
    model_repo: str | None = None
    dataset_repo: str | None = None
    dataset_commit: str | None = None

    @property
    def base(self) -> str:
        """Name of the base model."""
        return str(self.lineage["model"]["name"])

    @property
    def base_revision(self) -> str | None:
        """Commit of the base model; None if it is not on the Hub."""
        found: str | None = self.lineage["model"].get("revision")
        return found

    @property
    def source(self) -> Mapping[str, Any]:
        """Where the prompts come from: kind, name, revision."""
        found: Mapping[str, Any] = self.lineage.get("prompts", {})
        return found


def model_card(facts: Facts, files: Collection[str]) -> str:
    """Write the README.md of a model.

    Args:
        facts: What the run made, from what.
        files: Names of its files, which tell a LoRA adapter and a chat template.
    """
    from huggingface_hub import ModelCard, ModelCardData

    adapter = "adapter_config.json" in files
    trained_on = [facts.dataset_repo] if facts.dataset_repo else []
    if facts.source.get("kind") == "hub":
        trained_on.append(facts.source["name"])
    relation = "adapter" if adapter else "finetune"
    data = ModelCardData(
        **facts.license,
        base_model=facts.base if facts.base_revision else None,
        base_model_relation=relation if facts.base_revision else None,
        datasets=trained_on or None,
        language=list(facts.languages) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=sorted({"conversational", "dpo", "identity", "trl", *(["lora"] if adapter else [])}),
        model_name=str(facts.model_repo).split("/")[-1],
        eval_results=list(_eval_results(facts)),
    )
    pairs = _link(facts.dataset_repo, facts.dataset_commit, "datasets/")
    card = ModelCard.from_template(
        data,
        template_str=_template("model_card.md.j2"),
        **_shared(facts),
        repo=facts.model_repo,
        title=escape_markdown(str(facts.model_repo).split("/")[-1]),
        lineage=_as_json({**facts.lineage, **facts.training}),
        pairs_at=f": {pairs}" if pairs else "",
        measures=scorecard_rows(facts.scorecard),
        examples=[
            [escape_markdown(example[key]) for key in ("prompt", "before", "after")]
            for example in facts.scorecard["examples"]
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
    from huggingface_hub import DatasetCard, DatasetCardData

    rows, names = sum(splits.values()), {path: path[5:].split("-")[0] for path in splits}
    source, shipped = facts.source, facts.source.get("kind") in (None, "shipped")
    from_hub = source.get("kind") == "hub"
    data = DatasetCardData(
        **(facts.license if shipped else {}),
        language=list(facts.languages) or None,
        task_categories=["text-generation"],
        size_categories=[next((name for name, top in SIZES if rows < top), "n>1M")],
        source_datasets=[f"extended|{source['name']}" if from_hub else "original"],
        tags=sorted({"dpo", "identity", "preference", "trl"}),
        pretty_name=str(facts.dataset_repo).split("/")[-1],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": names[p], "path": p} for p in splits],
            }
        ],
    )
    where = "the set that comes with dpo-pipeline" if shipped else str(source["name"])
    if source.get("revision"):
        where += f" at {source['revision']}"
    card = DatasetCard.from_template(
        data,
        template_str=_template("dataset_card.md.j2"),
        **_shared(facts),
        repo=facts.dataset_repo,
        title=escape_markdown(str(facts.dataset_repo).split("/")[-1]),
        lineage=_as_json(facts.lineage),
        splits=[{"name": names[p], "rows": f"{count:,}"} for p, count in splits.items()],
        model_at=_link(facts.model_repo, None),
        source=escape_markdown(where),
        shipped=shipped,
    )
    return str(card).rstrip() + "\n"


def _shared(facts: Facts) -> dict[str, Any]:
    identity, verdict = facts.lineage.get("identity", {}), facts.scorecard["verdict"]
    starter = facts.lineage["model"].get("kind") == "starter"
    return {
        "base": _link(facts.base if facts.base_revision else None, facts.base_revision)
        or ("the starter model" if starter else escape_markdown(facts.base)),
        "new_name": escape_markdown(identity.get("new_name", "its new name")),
        "original_name": escape_markdown(identity.get("original_name", "its old one")),
        "languages": ", ".join(facts.languages) or "unknown",
        "passed": verdict["passed"],
        "failed": ", ".join(label(line["measure"]).name for line in verdict["failed"]),
        "forced": escape_markdown(facts.forced) if facts.forced else None,
    }


def _eval_results(facts: Facts) -> Sequence[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            **_measured_on(name, facts),
            metric_type=name,
            metric_name=label(name).name,
            metric_value=round(measure["value"], 4),
        )
        for name, measure in facts.scorecard["after"].items()
        if measure["value"] is not None
    ]


def _measured_on(name: str, facts: Facts) -> dict[str, Any]:
    """Name what a measure was taken on, as the Hub's model index wants it."""
    if name.startswith("lm_eval"):
        return {"dataset_type": "lm-eval", "dataset_name": "tasks of lm-eval"}
    if name.startswith(GENERAL):
        return {"dataset_type": "general", "dataset_name": "general questions"}
    if name.startswith("trained"):
        return {"dataset_type": "trained", "dataset_name": "identity prompts of the training set"}
    if not name.startswith(PAIRS) and not name.endswith("_shift"):
        return {"dataset_type": "identity", "dataset_name": "held-out identity prompts"}
    known = {"dataset_split": "test", "dataset_revision": facts.dataset_commit}
    return {
        "dataset_type": facts.dataset_repo or "identity",
        "dataset_name": "held-out pairs",
        **(known if facts.dataset_repo else {}),
    }


def license_of(card: Any) -> dict[str, Any]:
    """Pick what a card's metadata (a dict, or the Hub client's CardData) says of its license."""
    return {name: card.get(name) for name in LICENSE if card.get(name)}


def _as_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, ensure_ascii=True, indent=1, sort_keys=True)


def _link(repo: str | None, revision: str | None, kind: str = "") -> str:
    """Link a repository at a revision; empty without one."""
    from huggingface_hub import constants

    at = f"{constants.ENDPOINT}/{kind}{repo}/tree/{revision or 'main'}"
    return f"[{repo}]({at})" if repo else ""


def _template(name: str) -> str:
    return (resources.files("dpo_pipeline.publishing") / "templates" / name).read_text(
        encoding="utf-8"
    )


def public(lineage: Any, name: str = "") -> Any:
    """Cut the paths of this machine in a lineage to their last part."""
    if isinstance(lineage, Mapping):
        return {key: public(item, key) for key, item in lineage.items()}
    if name in PLACES and isinstance(lineage, str) and lineage.startswith(("/", "~", ".", "file:")):
        return Path(lineage).name
    return lineage
