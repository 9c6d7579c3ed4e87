"""The SFT term of a step, whole: the mean over all its chosen tokens, however they are split."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from trl.trainer.dpo_trainer import DPOTrainer


class WholeStepDPOTrainer(DPOTrainer):
    """DPOTrainer whose SFT term does not depend on what goes through the model at once.

    TRL averages it over the tokens of a micro-batch, and then the micro-batches: short answers
    that come alone would weigh more. Here each mean counts by its share of the step's tokens.
    """

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Note how many chosen tokens a micro-batch of this step has on average."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.tensor([_chosen_tokens(batch) for batch in batches], device=device)
        self._usual_tokens = self.accelerator.gather(counts.float()).mean().item()
        return batches, items

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Weigh the SFT term of a micro-batch by its chosen tokens, while training."""
        weights = self.loss_weights
        if model.training and "sft" in self.loss_types:
            share = _chosen_tokens(inputs) / self._usual_tokens
            pairs = zip(self.loss_types, weights, strict=True)
            self.loss_weights = [w * share if name == "sft" else w for name, w in pairs]
        plain: Any = super().compute_loss
        try:
            return plain(model, inputs, *args, **kwargs)
        finally:
            self.loss_weights = weights


def _chosen_tokens(batch: dict[str, Tensor]) -> int:
    """Count them; a batch holds the chosen completions, then as many rejected ones."""
    chosen, _ = batch["completion_mask"][:, 1:].chunk(2)
    return int(chosen.sum())
