"""Pairs saved as a dataset: Parquet, splits, and where every byte came from."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from dpo_pipeline.errors import DataError
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.pairs.quarantine import REASONS, explain_reasons
from dpo_pipeline.pairs.schema import COLUMNS, FLAGS, METADATA_KEY, pairs_schema, quarantine_schema
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.prompts.sources import Origin
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import Table, read_rows

logger = logging.getLogger(__name__)


class ModelOrigin(Record):
    """What a model is, told to others: a folder by its last part, no path of this machine."""

    name: str
    revision: str | None
    weights_digest: str
    template_digest: str
    kind: Literal["starter", "hub", "local"]

    @classmethod
    def of(cls, ref: ModelRef) -> "ModelOrigin":
        """Say what may be told of a model."""
        # Nothing else is called that: a folder has its path, and a model from a file its suffix.
        kind = "starter" if ref.name == "starter" else "hub" if ref.revision else "local"
        name = ref.name if ref.revision else Path(ref.name).name
        return cls.model_validate({**ref.model_dump(), "name": name, "kind": kind})


class Lineage(Record):
    """What pairs were made from.

    Attributes:
        model: The reference model.
        prompts: The source of the prompts; its digest is that of what was made of it.
        identity: Settings; null where no identity is at stake.
        generation: Settings, without where a server stands; null where nothing was generated.
        pairs: Settings; null where no pairs were made.
    """

    model: ModelOrigin
    prompts: Origin
    identity: dict[str, JsonValue] | None = None
    generation: dict[str, JsonValue] | None = None
    pairs: dict[str, JsonValue] | None = None


def save_dataset(pairs: Path, lineage: Lineage, config: PairsConfig, out: Path) -> dict[str, Any]:
    """Write the pairs as the data set that training reads, with where it came from.

    Args:
        pairs: Folder with pairs.parquet and quarantine.parquet.
        lineage: What the pairs were made from; kept in the metadata of every file
            under the key "dpo_pipeline", and in dataset.json.
        config: Least number and share of pairs.
        out: Empty folder; gets train.parquet, held_out.parquet, quarantine.parquet and
            dataset.json.
    Returns:
        Counts: rows, pairs, train, held_out, quarantine, yield (pairs a row), reasons.
    Raises:
        DataError: Too few pairs, or a prompt on both sides of the split.
        StoreError: The disk is full or not writable.
    """
    import pyarrow.parquet as pq

    source = pairs / "pairs.parquet"
    metadata = json.loads(pq.read_schema(source).metadata[METADATA_KEY])
    metadata["lineage"] = lineage.model_dump(mode="json")
    reasons, prompts = Counter[str](), {"train": set[str](), "held_out": set[str]()}
    schema = pairs_schema(metadata)
    with (
        Table(out / "quarantine.parquet", quarantine_schema(metadata)) as quarantine,
        Table(out / "train.parquet", schema) as train,
        Table(out / "held_out.parquet", schema) as held_out,
    ):
        for row in read_rows(pairs / "quarantine.parquet"):
            reasons[row["reason"]] += 1
            quarantine.add(row)
        for row in read_rows(source):
            {"train": train, "held_out": held_out}[row["split"]].add(row)
            prompts[row["split"]].add(row["prompt_id"])
    if both := prompts["train"] & prompts["held_out"]:
        raise DataError(
            f"{len(both)} prompts are both in train and held out, e.g. {min(both)}: the split "
            "leaks; make the prompts again"
        )
    found, rows = train.rows + held_out.rows, train.rows + held_out.rows + quarantine.rows
    counts = {
        "rows": rows,
        "pairs": found,
        "train": train.rows,
        "held_out": held_out.rows,
        "quarantine": quarantine.rows,
        "yield": round(found / max(rows, 1), 4),
        "reasons": dict(reasons.most_common()),
    }
    _require_yield(counts, config)
    _describe_dataset(counts, metadata, schema, out / "dataset.json")
    return counts


def _require_yield(counts: dict[str, Any], config: PairsConfig) -> None:
    if not counts["held_out"]:
        logger.warning("no pair is held out: preferences cannot be measured on unseen prompts")
    if counts["train"] >= config.min_pairs and counts["yield"] >= config.min_yield:
        return
    raise DataError(
        f"{counts['pairs']} usable pairs of {counts['rows']} answers, {counts['train']} of them "
        f"for training: a run needs {config.min_pairs} for training (pairs.min_pairs) and "
        f"{config.min_yield:.0%} of the answers (pairs.min_yield). In quarantine: "
        + explain_reasons(counts["reasons"])
    )


def _describe_dataset(
    counts: dict[str, Any], metadata: dict[str, Any], schema: Any, path: Path
) -> None:
    described = {
        "counts": counts,
        "reasons": {code: REASONS[code] for code in counts["reasons"]},
        "columns": {f.name: {"type": str(f.type), "meaning": COLUMNS[f.name]} for f in schema},
        "flags": FLAGS,
        **metadata,
    }
    path.write_text(json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8")
