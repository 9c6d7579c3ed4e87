"""Reference log-probabilities as a file of their own.

They depend on the reference weights, the tokens, where these are cut off, and the precision;
not on beta, the loss, the learning rate or the number of epochs. A sweep pays for them once,
and the reference model need not be in memory while training.
"""

import logging
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.remote import mirror, publish

logger = logging.getLogger(__name__)

CHOSEN, REJECTED = "ref_chosen_logps", "ref_rejected_logps"  # TRL's names of the columns


class ReferenceLogps(Record):
    """Log-probabilities (nats) of chosen and rejected under the reference, one a pair."""

    digest: str
    chosen: list[float]
    rejected: list[float]

    @classmethod
    def of(cls, chosen: list[float], rejected: list[float]) -> "ReferenceLogps":
        """Put a digest beside them."""
        figures = {"chosen": chosen, "rejected": rejected}
        return cls(digest=digest_of(figures), **figures)

    @classmethod
    def find(cls, path: Path, pairs: int) -> "ReferenceLogps | None":
        """Read those of so many pairs; None where there is no file or it is damaged."""
        mirror(path)
        try:
            found = cls.read(path)
        except StoreError:
            return None
        whole = found == cls.of(found.chosen, found.rejected)
        return found if whole and len(found.chosen) == len(found.rejected) == pairs else None


class CachedReferenceDPOTrainer(DPOTrainer):
    """DPOTrainer that takes tokens, and looks reference log-probabilities up before computing."""

    def __init__(self, *args: Any, folder: Path, digest: str, **kwargs: Any) -> None:
        self.reference_folder = folder  # where the files are kept
        self.reference_digest = digest  # of the reference weights
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        """Leave pairs that are tokens already as they are."""
        known = "prompt_ids" in dataset.column_names
        return dataset if known else super()._prepare_dataset(dataset, *args)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        path = self.reference_folder / f"{self._key(dataset)}.json"
        # The main process decides: others may look while a file is being put there.
        (logps,) = broadcast_object_list([ReferenceLogps.find(path, len(dataset))])
        if logps is None:
            logger.info("Computing the reference log-probabilities of %d pairs", len(dataset))
            logps = self._compute(dataset, batch_size)
            if self.accelerator.is_main_process:
                logps.write(path)
                publish(path)
        return dataset.add_column(CHOSEN, logps.chosen).add_column(REJECTED, logps.rejected)

    def _compute(self, dataset: Dataset, batch_size: int) -> ReferenceLogps:
        """Every process scores its share of the pairs; all of them get all scores."""
        share = range(self.accelerator.process_index, len(dataset), self.accelerator.num_processes)
        scored: list[tuple[int, float, float]] = []
        score: Any = self.compute_ref_log_probs
        for start in range(0, len(share), batch_size):
            rows = share[start : start + batch_size]
            batch = self._prepare_inputs(self.data_collator([dataset[row] for row in rows]))
            logps = score(self.ref_model or self.model, batch)
            scored += zip(rows, *(side.tolist() for side in logps), strict=True)
        _, chosen, rejected = zip(*sorted(gather_object(scored)), strict=True)
        return ReferenceLogps.of(list(chosen), list(rejected))

    def _key(self, dataset: Dataset) -> str:
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        settings: Any = self.args
        parts = {
            "weights": self.reference_digest,
            "tokens": [digest_of(list(dataset[column])) for column in columns],
            "max_length": settings.max_length,
            "bf16": settings.bf16,
            "quantized": getattr(self.model, "is_quantized", False),
        }
        return digest_of(parts)
