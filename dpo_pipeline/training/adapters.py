"""Adapters that look where the pairs differ from what must stay, and learn there.

An adapter reads the input of its layer along `rank` directions. Drawn at random, these answer to
any text, and training has to undo that for all but the pairs. Here they start as the directions
along which the pairs are strongest in proportion to what is held: the generalised eigenvectors of
the second moments of both. And they are learned in coordinates in which what is held is equally
strong everywhere, so that a step turns them least towards what many held texts have in common.

Source: Abid et al. 2018, doi:10.1038/s41467-018-04608-8 (contrastive components); Yang et al. 2024,
arXiv:2406.05223 (adapters from the covariance of activations); Martens and Grosse 2015,
arXiv:1503.05671 (steps in whitened coordinates of a layer's input).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.parametrize import (
    is_parametrized,
    register_parametrization,
    remove_parametrizations,
)

WIDEST = 2048  # inputs wider than this cost more to look at than they gain
SAMPLED = 4096  # tokens of the pairs
FLOOR = 0.05  # share of the mean second moment that every direction has at least


def aim_adapters(model: Module, run_pairs: Callable[[], None], run_held: Callable[[], None]) -> int:
    """Point the adapters of a model at what tells its pairs from what is held.

    They stay without effect, as new adapters are: only what they read is chosen.

    Args:
        model: With new LoRA adapters of PEFT.
        run_pairs: Runs the model over some pairs.
        run_held: Runs it over some of what is held.

    Returns:
        How many adapters were pointed; inputs wider than WIDEST are left as they are.
    """
    layers: dict[str, Any] = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and module.in_features <= WIDEST
    }
    ours: dict[str, list[Tensor]] = {}
    with _watched(layers, lambda name, x: ours.setdefault(name, []).append(x.cpu())) as alike:
        run_pairs()
    moments: dict[str, Tensor] = {}
    with _watched(layers, lambda name, x: _add(moments, name, x.mT @ x / len(x))):
        run_held()
    for first in ours:
        tokens = torch.cat(ours[first])
        tokens = tokens[:: max(1, len(tokens) // SAMPLED)].to(moments[first].device)
        whitening = Whitening(moments[first])
        for name in (first, *(other for other, source in alike.items() if source == first)):
            read = layers[name].lora_A["default"]
            register_parametrization(read, "weight", whitening)
            start = directions(tokens, whitening.root, len(read.weight))
            with torch.no_grad():
                read.parametrizations.weight.original.copy_(start)
    return len(layers)


def settle_adapters(model: Module) -> None:
    """Put what adapters have learned into plain weights, as they are kept and merged."""
    for module in list(model.modules()):
        if is_parametrized(module, "weight"):
            remove_parametrizations(module, "weight")


class Whitening(Module):
    """Weights over an input, given in coordinates in which what is held is equally strong.

    Args:
        held: Second moment of the input on what is held. Shape (width, width).
    """

    root: Tensor

    def __init__(self, held: Tensor) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(held.double())
        gain = (values.clamp(min=0) / values.mean() + FLOOR).rsqrt()
        gain = gain / gain.square().mean().sqrt()  # leaves weights as large as they are, on average
        self.register_buffer("root", ((vectors * gain) @ vectors.mT).float(), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights over the input itself. Shapes (rank, width)."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight @ self.root.to(weight.dtype)


def _add(sums: dict[str, Tensor], name: str, term: Tensor) -> None:
    sums[name] = sums[name] + term if name in sums else term


@contextmanager
def _watched(
    layers: dict[str, Any], note: Callable[[str, Tensor], Any]
) -> Iterator[dict[str, str]]:
    """Note the inputs of layers, (tokens, width), once where several read the same.

    Yields:
        Layers that read what another does -> that one; complete when the model has run.
    """
    alike: dict[str, str] = {}
    last: tuple[Any, str] = (None, "")

    def hook_of(name: str) -> Any:
        def hook(module: Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal last
            if inputs[0] is last[0]:
                alike[name] = last[1]
                return
            last = inputs[0], name
            with torch.autocast(inputs[0].device.type, enabled=False):
                note(name, inputs[0].detach().reshape(-1, inputs[0].shape[-1])[::2].float())

        return hook

    hooks = [layer.register_forward_pre_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        yield alike
    finally:
        for hook in hooks:
            hook.remove()


def directions(tokens: Tensor, root: Tensor, rank: int) -> Tensor:
    """Find the directions in which tokens are strongest in proportion to what is held.

    Args:
        tokens: Activations on the pairs. Shape (tokens, width).
        root: What makes whitened coordinates of them. Shape (width, width).
        rank: How many directions; where tokens span fewer, the others are zero.

    Returns:
        In whitened coordinates. Shape (rank, width), the strongest first. Each answers to the
        tokens as strongly as one drawn at random by PEFT does, on average.
    """
    white = tokens @ root
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # where its search starts
        found = torch.svd_lowrank(white, min(rank + 8, *white.shape), niter=4)[2][:, :rank].mT
    answer = (white @ found.mT).square().mean(0).sqrt()  # (rank,), root mean square
    usual = (tokens.square().sum(1).mean() / (3 * tokens.shape[1])).sqrt()
    out = tokens.new_zeros(rank, tokens.shape[1])
    out[: len(found)] = found * (usual / answer.clamp(min=1e-12))[:, None]
    return out
