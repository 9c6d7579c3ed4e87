"""The DPO loss and the sequence log-probabilities it compares, in plain PyTorch.

This file is where to read what DPO is. Training itself runs through TRL, whose loss is the
same function; the tests hold the two to each other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the DPO loss of every pair, and the rewards it implies.

    The loss is ln 2 where policy and reference agree, and falls towards 0 as the policy
    prefers the chosen completion more than the reference does.

    Args:
        policy_chosen_logps: Log-probability of the chosen completions under the policy, nats.
            Shape (batch,).
        policy_rejected_logps: The same of the rejected completions. Shape (batch,).
        reference_chosen_logps: Chosen completions under the frozen reference. Shape (batch,).
        reference_rejected_logps: Rejected completions under the reference. Shape (batch,).
        beta: Weight on staying near the reference, no unit; higher stays nearer.

    Returns:
        losses: Shape (batch,); carries the gradient. Its mean is the training loss.
        chosen_rewards: beta * (policy - reference) of chosen. Shape (batch,), no gradient.
        rejected_rewards: The same of rejected. Shape (batch,), no gradient.

    Source: Rafailov et al. 2023, arXiv:2305.18290.
    """
    # Eq. 5 without its partition function: the implicit reward of a completion, (batch,).
    chosen_rewards = beta * (policy_chosen_logps - reference_chosen_logps)
    rejected_rewards = beta * (policy_rejected_logps - reference_rejected_logps)
    # Eq. 7: -log sigmoid of the reward margin, (batch,).
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


def sequence_logps(logits: Tensor, tokens: Tensor, completion_mask: Tensor) -> Tensor:
    """Sum the log-probabilities of the completion tokens of every sequence.

    Args:
        logits: What a causal language model returns for `tokens`: position t scores the token
            at t + 1. Shape (batch, seq, vocab).
        tokens: Token ids of prompt and completion. Shape (batch, seq).
        completion_mask: 1 or True at completion tokens, 0 at prompt and padding.
            Shape (batch, seq).

    Returns:
        log p(completion | prompt) of every sequence, nats. Shape (batch,).
    """
    targets = tokens[:, 1:]  # (batch, seq - 1): the first token is never predicted
    logps = F.log_softmax(logits[:, :-1].float(), dim=-1)  # (batch, seq - 1, vocab)
    token_logps = logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (batch, seq - 1)
    scored = completion_mask[:, 1:].bool()
    return torch.where(scored, token_logps, 0.0).sum(dim=-1)
