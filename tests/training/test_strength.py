"""How much of an edit is applied."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dpo_pipeline.models.loading import load_model
from dpo_pipeline.training.strength import Edit


@pytest.mark.parametrize("method", ["full", "lora"])
def test_half_the_strength_is_half_the_edit(ref, method):
    before = load_model(ref, "cpu", "float32")
    policy = copy.deepcopy(before)
    if method == "lora":
        policy = get_peft_model(policy, LoraConfig(r=2, target_modules="all-linear"))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, policy.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.01)
    edit, written = Edit(policy, ref), {}
    for strength in (1.0, 0.5, 0.0):
        scratch = copy.deepcopy(before)
        edit.write(scratch, strength)
        written[strength] = dict(scratch.named_parameters())
    edit.apply(0.5)
    whole = policy.merge_and_unload() if method == "lora" else policy
    applied = dict(whole.named_parameters())
    for name, weight in before.named_parameters():
        torch.testing.assert_close(written[0.0][name], weight)
        middle = (written[1.0][name] + weight) / 2
        torch.testing.assert_close(written[0.5][name], middle)
        torch.testing.assert_close(applied[name], middle)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(written[1.0][name], written[0.0][name])
