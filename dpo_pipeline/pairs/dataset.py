"""Pairs saved as a dataset: Parquet, splits, and where every byte came from."""

import logging
from collections import Counter
from pathlib import Path

from pydantic import ConfigDict, Field

from dpo_pipeline.errors import DataError
from dpo_pipeline.pairs.lineage import Lineage, Metadata
from dpo_pipeline.pairs.quarantine import REASONS, explain_reasons
from dpo_pipeline.pairs.schema import COLUMNS, FLAGS, METADATA_KEY, pairs_schema, quarantine_schema
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import new_table, read_rows

logger = logging.getLogger(__name__)


class DatasetStats(Record):
    """What a dataset holds.

    Attributes:
        rows: Pairs and quarantine.
        pairs: train and held_out.
        quarantine: Rows that are no pairs, by the reasons.
        per_row: Pairs a row, written as "yield".
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    rows: int
    pairs: int
    train: int
    held_out: int
    quarantine: int
    per_row: float = Field(alias="yield")
    reasons: dict[str, int]


class _Described(Metadata):
    """dataset.json: what a person needs to read the files beside it."""

    counts: DatasetStats
    reasons: dict[str, str]
    columns: dict[str, dict[str, str]]
    flags: dict[str, str] = FLAGS


def save_dataset(pairs: Path, lineage: Lineage, config: PairsConfig, out: Path) -> DatasetStats:
    """Write the pairs as the data set that training reads, with where it came from.

    Args:
        pairs: Folder with pairs.parquet and quarantine.parquet.
        lineage: What the pairs were made from; kept in the metadata of every file
            under the key "dpo_pipeline", and in dataset.json.
        config: Least number and share of pairs.
        out: Empty folder; gets train.parquet, held_out.parquet, quarantine.parquet and
            dataset.json.
    Raises:
        DataError: Too few pairs, or a prompt on both sides of the split.
        StoreError: The disk is full or not writable.
    """
    import pyarrow.parquet as pq

    source = pairs / "pairs.parquet"
    metadata = Metadata.model_validate_json(pq.read_schema(source).metadata[METADATA_KEY])
    metadata = metadata.model_copy(update={"lineage": lineage})
    splits, reasons = Counter[str](), Counter[str]()
    prompts: dict[str, set[str]] = {"train": set(), "held_out": set()}
    schema = pairs_schema(metadata)
    with (
        new_table(out / "quarantine.parquet", quarantine_schema(metadata)) as refuse,
        new_table(out / "train.parquet", schema) as train,
        new_table(out / "held_out.parquet", schema) as hold_out,
    ):
        for row in read_rows(pairs / "quarantine.parquet"):
            reasons[row["reason"]] += 1
            refuse(row)
        for row in read_rows(source):
            {"train": train, "held_out": hold_out}[row["split"]](row)
            splits[row["split"]] += 1
            prompts[row["split"]].add(row["prompt_id"])
    if both := prompts["train"] & prompts["held_out"]:
        raise DataError(
            f"{len(both)} prompts are both in train and held out, e.g. {min(both)}: the split "
            "leaks; make the prompts again"
        )
    found, quarantined = splits.total(), reasons.total()
    counts = DatasetStats(
        rows=found + quarantined,
        pairs=found,
        train=splits["train"],
        held_out=splits["held_out"],
        quarantine=quarantined,
        per_row=round(found / max(found + quarantined, 1), 4),
        reasons=dict(reasons.most_common()),
    )
    _require_yield(counts, config)
    _Described(
        **dict(metadata),
        counts=counts,
        reasons={code: REASONS[code] for code in counts.reasons},
        columns={f.name: {"type": str(f.type), "meaning": COLUMNS[f.name]} for f in schema},
    ).write(out / "dataset.json")
    return counts


def _require_yield(counts: DatasetStats, config: PairsConfig) -> None:
    if not counts.held_out:
        logger.warning("no pair is held out: preferences cannot be measured on unseen prompts")
    if counts.train >= config.min_pairs and counts.per_row >= config.min_yield:
        return
    raise DataError(
        f"{counts.pairs} usable pairs of {counts.rows} answers, {counts.train} of them "
        f"for training: a run needs {config.min_pairs} for training (pairs.min_pairs) and "
        f"{config.min_yield:.0%} of the answers (pairs.min_yield). In quarantine: "
        + explain_reasons(counts.reasons)
    )
