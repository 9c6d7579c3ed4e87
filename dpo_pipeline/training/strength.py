"""How much of a trained edit is applied: what it added to the weights is scaled.

Source: Wortsman et al. 2022, arXiv:2109.01903 (interpolation between weights before and after).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dpo_pipeline.models.loading import load_model
from dpo_pipeline.models.references import ModelRef


class Edit:
    """What training adds to the weights of a model."""

    def __init__(self, policy: Any, ref: ModelRef) -> None:
        self.policy, self.ref = policy, ref
        self._before: dict[str, Tensor] = {}  # all weights, where no adapters hold what was added

    def weights(self, strength: float) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight that training changes, by the reference's name for it."""
        if hasattr(self.policy, "peft_config"):
            for name, layer in self.policy.get_base_model().named_modules():
                if hasattr(layer, "lora_A"):
                    added = layer.get_delta_weight("default")
                    yield f"{name}.weight", layer.base_layer.weight + strength * added
            return
        if strength != 1 and not self._before:
            reference = load_model(self.ref, self.policy.device.type, "float32")
            self._before = {name: weight.data for name, weight in reference.named_parameters()}
        for name, after in self.policy.named_parameters():
            yield name, after if strength == 1 else self._before[name].lerp(after, strength)

    @torch.no_grad()
    def write(self, model: Any, strength: float) -> None:
        """Put the edit into another copy of the reference."""
        own = dict(model.named_parameters())
        for name, weight in self.weights(strength):
            own[name].copy_(weight)

    def apply(self, strength: float) -> None:
        """Leave only so much of the edit in the policy."""
        if hasattr(self.policy, "peft_config"):
            for module in self.policy.modules():
                if hasattr(module, "lora_A"):
                    module.set_scale("default", strength)
        elif strength != 1:
            self.write(self.policy, strength)
