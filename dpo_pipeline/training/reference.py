"""Reference log-probabilities as a file of their own.

They depend on the reference weights, the tokens, where these are cut off, and the precision;
not on beta, the loss, the learning rate or the number of epochs. A sweep pays for them once,
and the reference model need not be in memory while training.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_pipeline.store.digests import digest_of

logger = logging.getLogger(__name__)

CHOSEN, REJECTED = "ref_chosen_logps", "ref_rejected_logps"  # TRL's names of the columns


class CachedReferenceDPOTrainer(DPOTrainer):
    """DPOTrainer that takes tokens, and looks reference log-probabilities up before computing.

    Attributes:
        reference_folder: Where the files are kept.
        reference_digest: Digest of the reference weights.
    """

    reference_folder: Path
    reference_digest: str

    def __init__(self, *args: Any, folder: Path, digest: str, **kwargs: Any) -> None:
        self.reference_folder, self.reference_digest = folder, digest
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """Leave pairs that are tokens already as they are."""
        if "prompt_ids" in dataset.column_names:
            return dataset
        prepared: Dataset = super()._prepare_dataset(dataset, *args)
        return prepared

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        path = self.reference_folder / f"{self._key(dataset)}.json"
        # The main process decides: others may look while a file is being put there.
        (logps,) = broadcast_object_list([read_logps(path, len(dataset))])
        if logps is None:
            logger.info("Computing the reference log-probabilities of %d pairs", len(dataset))
            logps = self._compute(dataset, batch_size)
            if self.accelerator.is_main_process:
                write_logps(path, *logps)
        for column, values in zip((CHOSEN, REJECTED), logps, strict=True):
            dataset = dataset.add_column(column, values)
        return dataset

    def _compute(self, dataset: Dataset, batch_size: int) -> tuple[list[float], list[float]]:
        """Every process scores its share of the pairs; all of them get all scores."""
        share = range(self.accelerator.process_index, len(dataset), self.accelerator.num_processes)
        scored: list[tuple[int, float, float]] = []
        score: Any = self.compute_ref_log_probs
        for start in range(0, len(share), batch_size):
            rows = share[start : start + batch_size]
            batch = self._prepare_inputs(self.data_collator([dataset[row] for row in rows]))
            logps = score(self.ref_model or self.model, batch)
            scored += zip(rows, *(side.tolist() for side in logps), strict=True)
        ordered = sorted(gather_object(scored))
        return [chosen for _, chosen, _ in ordered], [rejected for *_, rejected in ordered]

    def _key(self, dataset: Dataset) -> str:
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        settings: Any = self.args
        return digest_of(
            {
                "weights": self.reference_digest,
                "tokens": [digest_of(list(dataset[column])) for column in columns],
                "max_length": settings.max_length,
                "bf16": settings.bf16,
                "quantized": getattr(self.model, "is_quantized", False),
            }
        )


def write_logps(path: Path, chosen: list[float], rejected: list[float]) -> None:
    """Write log-probabilities (nats, one a pair) so that a reader sees all of them or none."""
    logps = {"chosen": list(chosen), "rejected": list(rejected)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("w") as file:
        json.dump({"digest": digest_of(logps), **logps}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_logps(path: Path, rows: int) -> tuple[list[float], list[float]] | None:
    """Read what `write_logps` wrote; None where there is no file or it is damaged.

    Args:
        path: The file.
        rows: How many pairs it must hold.

    Returns:
        Log-probabilities of chosen and of rejected (nats, one a pair).
    """
    try:
        content = json.loads(path.read_text())
        logps = {name: content[name] for name in ("chosen", "rejected")}
        whole = content["digest"] == digest_of(logps)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole or len(logps["chosen"]) != rows or len(logps["rejected"]) != rows:
        return None
    return logps["chosen"], logps["rejected"]
