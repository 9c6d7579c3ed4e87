"""How much of a trained edit is applied: adapters are scaled, full weights interpolated.

Source: Wortsman et al. 2022, arXiv:2109.01903 (interpolation between weights before and after).
"""

from typing import Any

import torch

from dpo_pipeline.models.loading import load_model
from dpo_pipeline.models.references import ModelRef


class Edit:
    """A trained policy, whose strength can be set again and again."""

    def __init__(self, policy: Any, ref: ModelRef) -> None:
        self.policy, self.strength = policy, 1.0
        self._ends: list[tuple[torch.Tensor, torch.Tensor]] = []  # before and after training
        if not hasattr(policy, "peft_config"):
            before = dict(load_model(ref, policy.device.type, "float32").named_parameters())
            after = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
            self._ends = [(before[name].detach(), weight) for name, weight in after.items()]

    def apply(self, strength: float) -> None:
        """Set the strength: 0 is the reference, 1 what training made."""
        self.strength = strength
        with torch.no_grad():
            for weight, (before, after) in zip(self.policy.parameters(), self._ends, strict=False):
                weight.copy_(before.lerp(after, strength))
        for module in self.policy.modules():
            if hasattr(module, "set_scale") and hasattr(module, "lora_A"):
                module.set_scale("default", strength)
