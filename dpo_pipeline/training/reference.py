"""Reference log-probabilities as a file of their own.

They depend on the reference weights, the tokens, where these are cut off, and the precision;
not on beta, the loss, the learning rate or the number of epochs. A sweep pays for them once,
and the reference model need not be in memory while training.
"""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.keys import digest_of

if TYPE_CHECKING:
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DPOTrainer

    _Trainer = DPOTrainer
else:
    _Trainer = object

log = logging.getLogger("dpo_pipeline.training")

CHOSEN, REJECTED = "ref_chosen_logps", "ref_rejected_logps"  # TRL's names of the columns


class CachedReference(_Trainer):
    """Mixin in front of a DPOTrainer: looks reference log-probabilities up before computing.

    Attributes:
        reference_folder: Where the files are kept.
        reference_digest: Digest of the reference weights.
    """

    reference_folder: Path
    reference_digest: str

    def __init__(self, *args: Any, folder: Path, digest: str, **kwargs: Any) -> None:
        self.reference_folder, self.reference_digest = folder, digest
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: "Dataset", *args: Any) -> "Dataset":
        """Leave pairs that are tokens already as they are."""
        if "prompt_ids" in dataset.column_names:
            return dataset
        prepared: Dataset = super()._prepare_dataset(dataset, *args)
        return prepared

    def _precompute_ref_logps(self, dataset: "Dataset", name: str, batch_size: int) -> "Dataset":
        path = self.reference_folder / f"{self._key(dataset)}.json"
        found = read_logps(path, len(dataset))
        if found is None:
            log.info("Computing the reference log-probabilities of %d pairs", len(dataset))
            made: Dataset = super()._precompute_ref_logps(dataset, name, batch_size)
            if self.accelerator.is_main_process:
                write_logps(path, made[CHOSEN], made[REJECTED])
            return made
        log.info("Reference log-probabilities of %d pairs found", len(dataset))
        for column, values in zip((CHOSEN, REJECTED), found, strict=True):
            dataset = dataset.add_column(column, values)
        return dataset

    def _key(self, dataset: "Dataset") -> str:
        columns = ("prompt_ids", "chosen_ids", "rejected_ids")
        return digest_of(
            {
                "weights": self.reference_digest,
                "tokens": [digest_of(list(dataset[column])) for column in columns],
                "max_length": self.args.max_length,
                "bf16": self.args.bf16,
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
