"""What a training process is given, what it tells on the way, and what it leaves."""

import json
import sys
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from dpo_pipeline import errors
from dpo_pipeline.errors import DPOPipelineError, TrainingError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.settings import NoEffect
from dpo_pipeline.training.settings import GoalConfig, TrainConfig

MARK = "\x1e"  # a line that starts with this is a message to the owner, not log text

HistoryRow = dict[str, int | float | None]  # a line of history.jsonl: step and its figures


class TrainJob(Record):
    """What a training process is to do."""

    ref: ModelRef  # where the policy starts, and the reference
    dataset: NoEffect[Path]  # folder with train.parquet
    retention: NoEffect[Path | None] = None  # answers that are held, of `answers.retaining`
    config: TrainConfig
    identity: IdentityConfig | None = None  # what config.goal looks for
    systems: tuple[str | None, ...] = (None,)  # system prompts under which it looks
    languages: tuple[str, ...] = ("en",)  # in which it looks
    device: NoEffect[Literal["auto", "cpu", "cuda"]]
    out: NoEffect[Path]  # existing empty folder; receives the result
    work: NoEffect[Path]  # survives a crash: checkpoints, tracker logs
    references: NoEffect[Path]  # folder of reference log-probs, for other settings as well
    parent: NoEffect[int | None] = None  # process to end with

    @property
    def pairs(self) -> Path:
        """The pairs: columns prompt, chosen, rejected; others are ignored."""
        return self.dataset / "train.parquet"

    @property
    def pairs_digest(self) -> str:
        """Their sha256."""
        return file_digest(self.pairs)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.work / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard's logs while training; then it lies in `out`."""
        return self.work / "tensorboard"


def child_module(config: TrainConfig) -> str:
    """Name the module that a training process runs."""
    return "dpo_pipeline.training." + ("tuning" if config.goal else "child")


class Look(Record):
    """What the policy says to the tuning split."""

    step: int
    strength: float  # how much of the edit is applied
    identity_rate: float  # of the questions about itself, answers with the new name or maker
    kl: float  # KL(reference || policy) on general answers, nats per token
    unasked: float  # of the general answers, those that bring up the new name
    unchanged: float  # of the general answers, those that begin word for word as the reference's

    def __str__(self) -> str:
        return (
            f"tuning split, step {self.step}, strength {self.strength:g}: identity "
            f"{self.identity_rate:.0%}, KL {self.kl:.3f}, new name unasked {self.unasked:.1%}, "
            f"unchanged {self.unchanged:.0%}"
        )

    def meets(self, goal: GoalConfig) -> bool:
        """Tell whether nothing is left to do, and nothing too much was done."""
        kept = self.kl <= goal.max_kl and self.unasked <= goal.max_unasked
        return kept and self.identity_rate >= goal.identity_rate


class Pruned(Exception):
    """A training was ended early on purpose, by whoever was told what it says; says why."""


class StepDone(Record):
    """An optimizer step, of how many, and its figures as text."""

    step: int
    total: int
    note: str


class OutOfMemoryError(TrainingError):
    """Memory ran out with so many pairs, and so many tokens at most, at once."""

    def __init__(self, pairs: int, tokens: int) -> None:
        super().__init__(pairs, tokens)
        self.pairs, self.tokens = pairs, tokens

    def __str__(self) -> str:
        return (
            f"Out of memory with {self.pairs} pairs of up to {self.tokens} tokens at once. Lower "
            "train.max_length, set train.gradient_checkpointing or train.method = lora, or use a "
            "smaller model. Checkpoints are kept."
        )


class Failed(Record):
    """An error of this project: its class by name, and the arguments to make it again."""

    type: str
    arguments: list[str | int]

    def error(self) -> DPOPipelineError:
        """Make the error again."""
        kind: type[DPOPipelineError] = getattr(errors, self.type, OutOfMemoryError)
        return kind(*self.arguments)


Message = StepDone | Look | Failed
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def send(message: Message) -> None:
    """Tell the owning process, in a line between those of the log."""
    sys.stdout.write(MARK + json.dumps(message.model_dump()) + "\n")
    sys.stdout.flush()


def read_message(line: str) -> Message | None:
    """Read a line of a training process; None: it is log text."""
    return _MESSAGE.validate_json(line[1:]) if line.startswith(MARK) else None


class Training(Record):
    """What training did."""

    revision: str | None  # of the model that the policy started from
    weights_digest: str  # of that model
    pairs_digest: str
    arguments: TrainConfig  # resolved
    engine: Literal["shared-prefix", "trl"]
    precision: Literal["bf16", "fp32"]
    micro_batch: int  # pairs that went through the model at once
    pairs: int
    steps: int
    planned_steps: int
    goal_met: bool | None  # by the policy at its strength; None: it had no goal
    strength: float  # how much of the edit is applied
    looks: list[Look]  # at the tuning split: while training, then by falling strength, as applied
    fallback: str | None  # why shared prefixes were not used, where they were to be
    first: HistoryRow  # figures of the first step
    last: HistoryRow


class TrainingFile(Training):
    """training.json: with the name of the model that the policy started from."""

    model: str
