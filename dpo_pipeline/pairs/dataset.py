"""Pairs saved as a dataset: Parquet, splits, and where every byte came from."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import ConfigDict, Field

from dpo_pipeline.errors import DataError
from dpo_pipeline.pairs import schema
from dpo_pipeline.pairs.schema import Lineage, Metadata
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.pairs.writing import Counts
from dpo_pipeline.prompts.quarantine import name_rows
from dpo_pipeline.store.tables import ROW_GROUP, Row, new_table, read_rows

logger = logging.getLogger(__name__)

KINDS = ("language", "family", "system")


class DatasetStats(Counts):
    """What a dataset holds."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    per_row: float = Field(alias="yield")  # pairs a row


class _Described(Metadata):
    """dataset.json: what a person needs to read the files beside it."""

    counts: DatasetStats
    reasons: dict[str, str]
    columns: dict[str, dict[str, str]]
    flags: dict[str, str] = schema.FLAGS


def save_dataset(pairs: Path, lineage: Lineage, config: PairsConfig, out: Path) -> DatasetStats:
    """Write the folder of pairs as the dataset that training reads, with where it came from.

    Languages, families and system prompts take turns, so that whoever reads no further than the
    first pairs has seen all of them evenly.

    That is train.parquet, held_out.parquet, quarantine.parquet and dataset.json; each keeps the
    lineage, the Parquet files in their metadata under the key "dpo_pipeline".

    Raises:
        DataError: Too few pairs, or a prompt on both sides of the split.
        StoreError: The disk is full or not writable.
    """
    source = pairs / "pairs.parquet"
    metadata = Metadata.model_validate_json(pq.read_schema(source).metadata[schema.METADATA_KEY])
    metadata = metadata.model_copy(update={"lineage": lineage})
    splits, reasons = Counter[str](), Counter[str]()
    prompts: dict[str, dict[str, int]] = {"train": {}, "held_out": {}}  # id -> row of the source
    columns, refused = schema.schemas(metadata)
    with (
        new_table(out / "quarantine.parquet", refused) as refuse,
        new_table(out / "train.parquet", columns) as train,
        new_table(out / "held_out.parquet", columns) as hold_out,
    ):
        for row in read_rows(pairs / "quarantine.parquet"):
            reasons[row["reason"]] += 1
            refuse(row)
        for row in _in_turn(source):
            {"train": train, "held_out": hold_out}[row["split"]](row)
            splits[row["split"]] += 1
            prompts[row["split"]][row["prompt_id"]] = row["source_row"]
    if both := {prompts["train"][i] for i in prompts["train"].keys() & prompts["held_out"].keys()}:
        raise DataError(
            f"{len(both)} prompts are both in train and held out ({name_rows(both)}): the split "
            "leaks; make the prompts again"
        )
    per_row = splits.total() / max(splits.total() + reasons.total(), 1)
    counts = DatasetStats.of(splits, reasons, per_row=round(per_row, 4))
    if not counts.held_out:
        logger.warning("no pair is held out: preferences cannot be measured on unseen prompts")
    if counts.train < config.min_pairs or counts.per_row < config.min_yield:
        raise DataError(
            f"{counts.pairs} usable pairs of {counts.rows} answers, {counts.train} of them "
            f"for training: a run needs {config.min_pairs} for training (pairs.min_pairs) and "
            f"{config.min_yield:.0%} of the answers (pairs.min_yield). In quarantine: "
            + schema.explain_reasons(counts.reasons, out / "quarantine.parquet")
        )
    _Described(
        **dict(metadata),
        counts=counts,
        reasons={code: schema.REASONS[code] for code in counts.reasons},
        columns={c.name: {"type": str(c.type), "meaning": schema.COLUMNS[c.name]} for c in columns},
    ).write(out / "dataset.json")
    return counts


def _in_turn(pairs: Path) -> Iterator[Row]:
    """Yield pairs, one of each language, family and system prompt, then the next of each."""
    seen, turns = Counter[tuple[object, ...]](), list[tuple[int, str, int]]()
    rows = enumerate(read_rows(pairs, ("id", *KINDS)))
    for place, row in sorted(rows, key=lambda row: str(row[1]["id"])):  # a digest
        kind = tuple(row[name] for name in KINDS)
        turns.append((seen[kind], row["id"], place))
        seen[kind] += 1
    order, table = [place for *_, place in sorted(turns)], pq.read_table(pairs)
    for start in range(0, len(order), ROW_GROUP):
        yield from table.take(order[start : start + ROW_GROUP]).to_pylist()
