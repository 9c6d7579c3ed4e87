"""What goes into a training process, and what comes out of it."""

from pathlib import Path
from typing import Literal

from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.store.records import Record
from dpo_pipeline.training.settings import TrainConfig

TENSORBOARD = "tensorboard"  # folder of its logs, in work while training, then in out

HistoryRow = dict[str, int | float | None]  # a line of history.jsonl: step and its figures


class TrainJob(Record):
    """What a training process is to do.

    Attributes:
        ref: Where the policy starts, and the reference.
        pairs, pairs_digest: The Parquet file of pairs, and its sha256.
        held_out: Parquet file of held-out pairs, for early stopping.
        identity: What early stopping looks for; None without it.
        config: How to train.
        device: "auto", "cpu" or "cuda".
        out: Receives the result.
        work: Survives a crash: checkpoints, tracker logs.
        references: Folder of reference log-probs.
        parent: Process to end with; None where the launcher of several sees to it.
    """

    ref: ModelRef
    pairs: Path
    pairs_digest: str
    held_out: Path
    identity: IdentityConfig | None = None
    config: TrainConfig
    device: Literal["auto", "cpu", "cuda"]
    out: Path
    work: Path
    references: Path
    parent: int | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.work / "checkpoints"


def child_module(config: TrainConfig) -> str:
    """Name the module that a training process runs."""
    return "dpo_pipeline.training." + ("early_stopping" if config.stop else "child")


class Training(Record):
    """What training did.

    Attributes:
        revision, weights_digest: Of the model that the policy started from.
        pairs_digest, pairs: What it was trained on.
        arguments: The settings, resolved.
        engine, precision, micro_batch: How it went through the model, pairs at once.
        steps, planned_steps: Optimizer steps done and laid out.
        stopped: Why early stopping ended it; None: it did not.
        first, last: Figures of the first and the last step.
    """

    revision: str | None
    weights_digest: str
    pairs_digest: str
    arguments: TrainConfig
    engine: Literal["shared-prefix", "trl"]
    precision: Literal["bf16", "fp32"]
    micro_batch: int
    pairs: int
    steps: int
    planned_steps: int
    stopped: str | None
    first: HistoryRow
    last: HistoryRow


class TrainingFile(Training):
    """training.json: with the name of the model that the policy started from."""

    model: str
