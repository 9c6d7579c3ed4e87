"""What is done after every step: reported, stopped where it is not finite, sealed when saved."""

import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.training import messages
from dpo_pipeline.training.checkpoints import seal
from dpo_pipeline.training.messages import StepDone

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
}


class Progress(TrainerCallback):
    """Report every step, stop at the first loss that is not finite, seal checkpoints."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size  # pairs an optimizer step
        self.begun = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.begun, self.first_step = time.monotonic(), state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report a step.

        Raises:
            TrainingError: Its loss or gradient is not finite.
        """
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
            steps = (state.global_step - self.first_step) / (time.monotonic() - self.begun)
            messages.send(
                StepDone(
                    step=state.global_step,
                    total=state.max_steps,
                    speed=steps * self.batch_size,
                    left=(state.max_steps - state.global_step) / steps,
                    **{name: logs[FIGURES[name]] for name in ("loss", "margin", "accuracy")},
                )
            )

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seal the checkpoint."""
        if state.is_world_process_zero:
            seal(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")
