"""Adapters that start from what tells the pairs from what is held."""

import torch
from peft import LoraConfig, get_peft_model

from dpo_pipeline.models.loading import load_model
from dpo_pipeline.training.adapters import (
    Whitening,
    aim_adapters,
    directions,
    settle_adapters,
)


def test_directions_are_those_where_the_pairs_stand_out():
    torch.manual_seed(0)
    common, own = torch.eye(16)[:4], torch.eye(16)[4:6]
    held = torch.randn(500, 4) @ common * 2
    tokens = torch.randn(300, 4) @ common * 2 + torch.randn(300, 2) @ own
    root = Whitening(held.mT @ held / len(held)).root
    found = directions(tokens, root, rank=2) @ root
    unit = found / found.norm(dim=1, keepdim=True)
    assert float((unit @ own.mT).norm(dim=1).min()) > 0.99
    assert float((held @ found.mT).norm() / (tokens @ found.mT).norm()) < 0.2


def test_directions_are_generalised_eigenvectors_at_the_usual_strength():
    torch.manual_seed(0)
    tokens, held = torch.randn(400, 12), torch.randn(800, 12) @ torch.randn(12, 12)
    moment = held.mT @ held / len(held)
    root = Whitening(moment).root
    found = (directions(tokens, root, rank=3) @ root).double()
    ours = (tokens.mT @ tokens / len(tokens)).double()
    floored = (moment + 0.05 * moment.trace() / 12 * torch.eye(12)).double()
    ratios = [float(d @ ours @ d / (d @ floored @ d)) for d in found]
    best = torch.linalg.eigvals(torch.linalg.solve(floored, ours)).real.sort(descending=True)
    torch.testing.assert_close(
        torch.tensor(ratios, dtype=torch.double), best.values[:3], rtol=1e-3, atol=0
    )
    answers = (tokens.double() @ found.mT).square().mean(0)
    usual = tokens.double().square().sum(1).mean() / 36
    torch.testing.assert_close(answers, usual.expand(3), rtol=1e-4, atol=0)


def test_fewer_tokens_than_directions_leave_the_others_unused():
    found = directions(torch.randn(2, 8), torch.eye(8), rank=4)
    assert found.shape == (4, 8)
    assert torch.isfinite(found).all()
    assert int((found.norm(dim=1) > 1e-3).sum()) >= 2


def test_aimed_adapters_have_no_effect_yet_and_read_alike_what_is_alike(ref):
    model = load_model(ref, "cpu", "float32")
    pairs, held = torch.arange(40).reshape(2, 20), torch.arange(60, 100).reshape(2, 20)
    before = model(pairs).logits
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    count = aim_adapters(adapted, lambda: adapted(pairs), lambda: adapted(held))
    read = {n: p.detach() for n, p in adapted.named_parameters() if "lora_A" in n}
    assert count == len(read)
    torch.testing.assert_close(adapted(pairs).logits, before)
    settle_adapters(adapted)
    torch.testing.assert_close(adapted(pairs).logits, before)
    read = {n: p.detach() for n, p in adapted.named_parameters() if "lora_A" in n}
    layer = "base_model.model.model.layers.0"
    q, k = (read[f"{layer}.self_attn.{p}_proj.lora_A.default.weight"] for p in "qk")
    assert torch.equal(q, k)
    assert not torch.equal(q, read[f"{layer}.mlp.up_proj.lora_A.default.weight"])


def test_what_is_held_is_equally_strong_in_whitened_coordinates():
    torch.manual_seed(0)
    held = torch.randn(5000, 10) @ (torch.eye(10) * torch.linspace(1, 3, 10))
    root = Whitening(held.mT @ held / len(held)).root
    strengths = (held @ root).square().mean(0)
    assert float(strengths.max() / strengths.min()) < 1.5  # nine times as strong before
    torch.testing.assert_close(root.square().sum(), torch.tensor(10.0))


def test_settled_adapters_read_what_they_learned(ref):
    model = load_model(ref, "cpu", "float32")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    ids = torch.arange(40).reshape(2, 20)
    aim_adapters(adapted, lambda: adapted(ids), lambda: adapted(ids + 50))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn_like(weight) / 10)
    learned = adapted(ids).logits
    settle_adapters(adapted)
    torch.testing.assert_close(adapted(ids).logits, learned)
    assert all("parametrizations" not in name for name, _ in adapted.named_parameters())
