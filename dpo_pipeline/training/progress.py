"""What is done after every step: reported, stopped where it is not finite, sealed when saved.

A run that was cut short goes on from a checkpoint whose seal holds. Neither transformers nor
safetensors tell one that was cut, or whose bytes have changed, from a whole one: docs/spikes.md.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_pipeline.errors import StoreError, TrainingError
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.store.files import explained, write_whole
from dpo_pipeline.store.remote import prune, publish
from dpo_pipeline.training import records
from dpo_pipeline.training.records import HistoryRow

logger = logging.getLogger(__name__)

SEAL = "complete.json"  # written last: the digest of every file of a checkpoint

# Name in history.jsonl -> name in TRL's log.
FIGURES = {
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "retention_kl": "retention/kl",  # KL(reference || policy) of what is held, nats per token
}
SEEN = ("identity_rate", "kl", "unasked", "unchanged")  # beside them where config.goal asks


class Progress(TrainerCallback):
    """Report every step, stop at the first loss that is not finite, seal checkpoints."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size  # pairs an optimizer step
        self.begun, self.first_step = 0.0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.begun, self.first_step = time.monotonic(), state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report a step; raise a TrainingError where its loss or gradient is not finite."""
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
            raise TrainingError(
                f"Step {state.global_step}: loss {logs['loss']}, gradient norm "
                f"{logs.get('grad_norm')}. Lower train.learning_rate or use "
                "train.precision = fp32. Earlier checkpoints are kept."
            )
        if state.is_world_process_zero:
            speed = (state.global_step - self.first_step) / (time.monotonic() - self.begun)
            loss, margin, accuracy = (logs[FIGURES[k]] for k in ("loss", "margin", "accuracy"))
            held = logs.get(FIGURES["retention_kl"])
            kept = "" if held is None else f"retention KL {held:.4f}, "
            note = (
                f"loss {loss:.4f}, margin {margin:.3f}, accuracy {accuracy:.2f}, {kept}"
                f"{speed * self.batch_size:.1f} pairs/s, "
                f"{(state.max_steps - state.global_step) / speed:.0f} s left"
            )
            step = records.StepDone(step=state.global_step, total=state.max_steps, note=note)
            records.send(step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint, and have the remote of the store hold it and no older ones."""
        PartialState().wait_for_everyone()  # each process writes the state of its random numbers
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_whole(checkpoint / SEAL, _digests(checkpoint))
            try:
                publish(checkpoint)
                prune(checkpoint.parent)
            except StoreError as error:  # it is safe on this machine
                logger.warning("checkpoint %d: %s", state.global_step, error)


class SavingDPOTrainer(DPOTrainer):
    """DPOTrainer that says where a checkpoint cannot be written, and what room it takes."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        # Weights and two moments, in float32.
        note = f"; it takes about {trained * 12 / 1e6:,.0f} MB, and earlier ones are kept"
        save: Any = super()._save_checkpoint
        try:
            # Of shards it may be that another process is gone.
            also = () if self.is_fsdp_enabled else (RuntimeError,)
            with explained(folder, "write", *also, note=note):
                save(model, trial)
        except StoreError:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def write_history(path: Path, logged: Sequence[dict[str, Any]]) -> list[HistoryRow]:
    """Write what was logged of every step, and what was seen of the tuning split, a line a step."""
    checks = {row["step"]: row for row in logged if "done" in row}
    history = [
        {
            "step": row["step"],
            **{name: row.get(key) for name, key in FIGURES.items()},
            **{name: checks[row["step"]][name] for name in SEEN if row["step"] in checks},
        }
        for row in logged
        if "loss" in row
    ]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in history))
    return history


def last_good(folder: Path) -> Path | None:
    """Find the newest checkpoint that is whole; None where there is none."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))
    for checkpoint in found:
        sealed = checkpoint / SEAL
        if sealed.is_file() and sealed.read_bytes() == _digests(checkpoint).encode():
            return checkpoint
        logger.warning("%s is not whole; trying an older one", checkpoint.name)
    return None


def _digests(checkpoint: Path) -> str:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    return json.dumps({str(path.relative_to(checkpoint)): file_digest(path) for path in files})
