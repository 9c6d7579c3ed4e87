"""Retention: what must stay is held where it was, token by token, while the identity changes.

To the loss of the pairs comes the divergence of the policy from its reference on the reference's
own answers to general questions:

    weight * mean over answer tokens of KL(reference || policy), over the whole vocabulary

The reference's side is kept as its last hidden states, of some hundred numbers a token; its output
layer makes log-probabilities of them again, as exact as new ones.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.remote import mirror, publish
from dpo_pipeline.training.adapters import aim_adapters
from dpo_pipeline.training.progress import SavingDPOTrainer
from dpo_pipeline.training.reference import CachedReferenceDPOTrainer
from dpo_pipeline.training.sft import WholeStepDPOTrainer
from dpo_pipeline.training.sharded import ShardedDPOTrainer
from dpo_pipeline.training.token_scores import Tokens

logger = logging.getLogger(__name__)

PAIRS = 60  # pairs, and twice as many rows, that adapters start from
ROWS = 32  # rows of the reference that go through the model at once
CACHED = {"cpu": 1 << 20}  # float32 numbers that stay in a core's cache while worked on
UNCACHED = 1 << 28


class _Divergence(torch.autograd.Function):
    """KL(reference || policy) of next-token distributions, from hidden states.

    The forward pass leaves the gradient of the policy's scores in their place, so that the
    backward pass is a matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, held: Tensor, held_weight: Tensor
    ) -> Tensor:
        """Compare. Shapes (tokens, width), (vocabulary, width), and the same of the reference."""
        scores, held_scores = hidden @ weight.mT, held @ held_weight.mT
        kl = torch.empty(len(hidden), device=hidden.device)
        step = max(1, CACHED.get(hidden.device.type, UNCACHED) // len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            policy = scores[rows].float().log_softmax(-1)
            reference = held_scores[rows].float().log_softmax(-1)
            probability = reference.exp()
            kl[rows] = torch.linalg.vecdot(probability, reference - policy)
            # d KL / d scores = policy - reference
            scores[rows] = policy.exp_().sub_(probability)
        ctx.save_for_backward(hidden, weight, scores)
        return kl

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, scores = ctx.saved_tensors
        outer = grads[0][:, None].to(hidden.dtype)
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = scores.mT @ (hidden * outer)
        return (scores @ weight) * outer, grad_weight, None, None


def divergence(hidden: Tensor, weight: Tensor, held: Tensor, held_weight: Tensor) -> Tensor:
    """Compute KL(reference || policy) of every next-token distribution, nats.

    Args:
        hidden: Last hidden states of the policy where answer tokens are predicted; carries the
            gradient. Shape (tokens, width).
        weight: Output layer of the policy. Shape (vocabulary, width).
        held: Last hidden states of the reference at the same places. Shape (tokens, width).
        held_weight: Output layer of the reference. Shape (vocabulary, width).

    Returns:
        Shape (tokens,).
    """
    compared: Any = _Divergence.apply
    found: Tensor = compared(hidden, weight, held, held_weight)
    return found


@dataclass(frozen=True)
class Retention:
    """What is held where it was, in the order in which it comes."""

    rows: Sequence[Tokens]  # prompt and the reference's answer, token ids
    weight: float  # of the mean divergence beside the loss of the pairs
    each: int  # rows beside the pairs that go through the model at once
    aimed: bool = False  # whether new adapters start from what tells pairs from rows


class RetainingDPOTrainer(
    WholeStepDPOTrainer, SavingDPOTrainer, CachedReferenceDPOTrainer, ShardedDPOTrainer
):
    """DPOTrainer whose loss also holds the reference's own answers to general questions."""

    def __init__(self, *args: Any, retention: Retention | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.retention = retention
        self.seen = 0  # micro-batches of this process since it started
        if retention:
            self.held = self._hold(retention.rows)
            weight = self._output_layer().weight
            self.held_weight = weight.detach().clone() if weight.requires_grad else weight
            if retention.aimed:
                self._aim(retention.rows)

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: Any = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Add the divergence of the rows whose turn it is, while training."""
        plain: Any = super().compute_loss
        loss = plain(model, inputs, return_outputs, num_items_in_batch)
        if self.retention is None or not model.training:
            return loss
        places, usual = self._turn(self.retention)
        with self.accelerator.autocast():
            kl = self.with_weights(self._divergences, self.retention.rows, places).sum() / usual
        mean = self.accelerator.gather(kl.detach()).mean().item()
        self._metrics["train"]["retention/kl"].append(mean)
        return loss + self.retention.weight * kl

    def _turn(self, retention: Retention) -> tuple[list[int], float]:
        """Choose the rows of a micro-batch by how far training is: a resumed one goes on.

        Returns:
            Their places, and how many tokens a micro-batch of this step has on average.
        """
        rows, each, processes = retention.rows, retention.each, self.accelerator.num_processes
        parts = self.args.gradient_accumulation_steps * processes
        part = self.seen * processes % parts + self.accelerator.process_index
        self.seen += 1
        first = self.state.global_step * parts * each
        step = [i % len(rows) for i in range(first, first + parts * each)]
        tokens = sum(len(rows[i][1]) for i in step)
        return step[part * each :][:each], tokens / parts

    def _aim(self, held: Sequence[Tokens]) -> None:
        """Start the adapters from some pairs and some rows."""
        dataset: Any = self.train_dataset
        pairs = [
            (row["prompt_ids"], row[side])
            for row in dataset.select(range(min(PAIRS, len(dataset))))
            for side in ("chosen_ids", "rejected_ids")
        ]

        def run(rows: Sequence[Tokens]) -> None:
            with torch.no_grad(), self.accelerator.autocast():
                for start in range(0, len(rows), ROWS):
                    self._states(rows[start : start + ROWS])

        model = self.accelerator.unwrap_model(self.model)
        count = aim_adapters(model, lambda: run(pairs), lambda: run(held[: 2 * PAIRS]))
        logger.info("%d adapters start from what tells the pairs from what is held", count)

    def _output_layer(self) -> Any:
        return self.accelerator.unwrap_model(self.model).get_output_embeddings()

    def _divergence(self, states: Tensor, held: Tensor) -> Tensor:
        kind, weight = states.device.type, self._output_layer().weight
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        ours, theirs = (w.to(dtype) for w in (weight, self.held_weight))
        return divergence(states.to(dtype), ours, held.to(dtype), theirs)

    def _divergences(self, rows: Sequence[Tokens], places: list[int]) -> Tensor:
        states = self._states([rows[i] for i in places])
        held = torch.cat([self.held[i] for i in places]).to(states.device)
        return self._divergence(states, held)

    def _states(self, rows: Sequence[Tokens]) -> Tensor:
        """Run rows; last hidden states where answer tokens are predicted, (tokens, width)."""
        return last_states(self.accelerator.unwrap_model(self.model), rows)

    def _hold(self, rows: Sequence[Tokens]) -> list[Tensor]:
        """Look the reference's states up, or compute them; one tensor a row."""
        parts = {"weights": self.reference_digest, "rows": digest_of(rows), "bf16": self.args.bf16}
        file = self.reference_folder / f"{digest_of(parts)}.safetensors"
        found: list[list[Tensor] | None] = broadcast_object_list([read_states(file, rows)])
        if (held := found[0]) is None:
            held = self._compute_states(rows)
            if self.accelerator.is_main_process:
                write_states(file, held)
        return held

    def _compute_states(self, rows: Sequence[Tokens]) -> list[Tensor]:
        logger.info("Computing what the reference says to %d general questions", len(rows))
        model: Any = self.accelerator.unwrap_model(self.model)
        plain = model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext()
        was, found = model.training, []
        model.eval()
        with torch.no_grad(), plain, self.accelerator.autocast():
            for start in range(0, len(rows), ROWS):
                batch = rows[start : start + ROWS]
                lengths = [len(answer) for _, answer in batch]
                found += self._states(batch).cpu().split(lengths)
            self._check(rows[0], found[0])
        model.train(was)
        return found

    def _check(self, row: Tokens, states: Tensor) -> None:
        """Hold that states and output layer give what the model itself says of a row."""
        ids = torch.tensor([[*row[0], *row[1]]], device=self.accelerator.device)
        model: Any = self.accelerator.unwrap_model(self.model)
        said = model(input_ids=ids, use_cache=False).logits[0, len(row[0]) - 1 : -1].float()
        ours = (states.to(ids.device).to(said.dtype) @ self._output_layer().weight.mT).float()
        ours, said = ours.log_softmax(-1), said.log_softmax(-1)
        if float((said.exp() * (said - ours)).sum(-1).mean()) > 0.01:
            raise TrainingError(
                "the scores of this model are not its output layer times its last states, so "
                "they cannot be held: set train.retention_weight to 0"
            )


def last_states(model: Any, rows: Sequence[Tokens]) -> Tensor:
    """Run rows through a model, with any adapter; last hidden states that predict answer tokens.

    Returns:
        Row after row. Shape (answer tokens, width).
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    whole = [torch.tensor([*prompt, *answer], device=bare.device) for prompt, answer in rows]
    ids = pad_sequence(whole, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in whole], batch_first=True)
    hidden = bare.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    predicting = [slice(len(p) - 1, len(p) + len(a) - 1) for p, a in rows]
    return torch.cat([row[part] for row, part in zip(hidden, predicting, strict=True)])


def read_states(file: Path, rows: Sequence[Tokens]) -> list[Tensor] | None:
    """Read the states of so many rows; None where there is no file or it is damaged."""
    mirror(file)
    try:
        with safe_open(file, "pt") as stored:
            digest, states = (stored.metadata() or {}).get("digest"), stored.get_tensor("states")
    except (OSError, SafetensorError):
        return None
    lengths = [len(answer) for _, answer in rows]
    whole = len(states) == sum(lengths) and digest == _digest(states)
    return list(states.split(lengths)) if whole else None


def write_states(file: Path, states: Sequence[Tensor]) -> None:
    """Write states with a digest of them."""
    together = torch.cat(list(states)).contiguous()
    write_whole(file, save({"states": together}, {"digest": _digest(together)}))
    publish(file)


def _digest(states: Tensor) -> str:
    return hashlib.sha256(states.view(torch.uint8).numpy().tobytes()).hexdigest()
