"""A policy whose weights lie in parts, one a process (FSDP2), and what needs them whole.

Zhao et al. 2023, arXiv:2304.11277. Where nothing is sharded, all of it is as before.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.nn import Parameter
from trl.trainer.dpo_trainer import DPOTrainer

T = TypeVar("T")


class ShardedDPOTrainer(DPOTrainer):
    """DPOTrainer whose policy can be had whole, sharded or not."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; where that shards the policy, the main process keeps a whole one in memory."""
        if self.is_fsdp_enabled and self.accelerator.is_main_process:
            policy: Any = self.model
            here = {id(p): Parameter(p.detach().to("cpu", copy=True)) for p in policy.parameters()}
            self._whole = copy.deepcopy(policy, here).to("cpu")
        plain: Any = super().train
        return plain(*args, **kwargs)

    def whole_policy(self) -> Any:
        """Return the policy as it is now, on the main process; every process has to ask.

        A sharded one is put together on the CPU; other processes get nothing of use then.
        """
        if not self.is_fsdp_enabled:
            return self.accelerator.unwrap_model(self.model)
        how = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        weights = get_model_state_dict(self.accelerator.unwrap_model(self.model), options=how)
        if not self.accelerator.is_main_process:
            return None
        put = self._whole.load_state_dict(weights, strict=False)
        assert not put.unexpected_keys
        return self._whole

    def with_weights(self, compute: Callable[..., T], *args: Any) -> T:
        """Compute something of the policy's weights, which its own forward pass does not."""
        if not self.is_fsdp_enabled:
            return compute(*args)
        policy: Any = self.accelerator.unwrap_model(self.model)
        policy.computed = compute
        register_fsdp_forward_method(policy, "computed")
        found: T = policy.computed(*args)
        return found
