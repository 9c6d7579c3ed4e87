"""How likely two models find given completions, token by token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dpo_pipeline.models.chat_templates import Message
from dpo_pipeline.training.tokens import tokenize_pair

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Bounds of a batch: small ones stay in a CPU's cache, large vocabularies in memory.
ROWS = 16
LOGITS = 2**25  # rows x completion tokens x vocabulary

Tokens = tuple[list[int], list[int]]  # prompt, completion


@dataclass(frozen=True)
class TokenScores:
    """One completion under both models, shape (completion tokens,), nats."""

    policy: "torch.Tensor"
    reference: "torch.Tensor"
    kl: "torch.Tensor"  # KL(policy || reference) of the next-token distributions


def pair_rows(
    tokenizer: "PreTrainedTokenizerBase", pairs: Iterable[dict[str, Any]]
) -> list[Tokens]:
    """Turn pairs into tokens as training does: chosen, rejected, chosen, rejected, ..."""
    tokens = [tokenize_pair(pair, tokenizer) for pair in pairs]
    return [(t["prompt_ids"], t[side]) for t in tokens for side in ("chosen_ids", "rejected_ids")]


def answer_rows(
    tokenizer: "PreTrainedTokenizerBase", answers: Iterable[tuple[Sequence[Message], str]]
) -> list[Tokens]:
    """Turn prompts with their answers into tokens as training does."""
    said = ((list(prompt), [{"role": "assistant", "content": text}]) for prompt, text in answers)
    pairs = ({"prompt": prompt, "chosen": text, "rejected": text} for prompt, text in said)
    return pair_rows(tokenizer, pairs)[::2]


def score_tokens(
    policy: "PreTrainedModel", reference: "PreTrainedModel", rows: Sequence[Tokens]
) -> list[TokenScores]:
    """Run both models over prompts with their completions, in batches of similar length.

    Vocabulary that only one of them has, as padding, is left out.
    """
    import torch

    vocabulary = min(m.config.get_text_config().vocab_size for m in (policy, reference))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    results: dict[int, TokenScores] = {}
    while order:
        widest = max(len(rows[i][1]) for i in order[-ROWS:])
        size = max(1, min(ROWS, LOGITS // (widest * vocabulary)))
        batch, order = order[-size:], order[:-size]
        with torch.inference_mode():
            ours, theirs = (
                _next_token_logps(m, [rows[i] for i in batch], vocabulary)
                for m in (policy, reference)
            )
            kl = (ours.exp() * (ours - theirs)).sum(-1)
        for position, index in enumerate(batch):
            completion = torch.tensor(rows[index][1], device=ours.device)
            at = (position, slice(ours.shape[1] - len(completion), None))
            results[index] = TokenScores(
                policy=ours[at].gather(-1, completion[:, None])[:, 0].cpu(),
                reference=theirs[at].gather(-1, completion[:, None])[:, 0].cpu(),
                kl=kl[at].cpu(),
            )
    return [results[i] for i in range(len(rows))]


def _next_token_logps(
    model: "PreTrainedModel", rows: Sequence[Tokens], vocabulary: int
) -> "torch.Tensor":
    """Log-probs of every next token where completions stand, shape (batch, longest, vocab)."""
    import torch

    longest = max(len(p) + len(c) for p, c in rows)
    width = max(len(c) for _, c in rows)
    # Padding on the left lets all completions end together, so only those logits are made.
    ids = [[0] * (longest - len(p) - len(c)) + p + c for p, c in rows]
    mask = [[0] * (longest - len(p) - len(c)) + [1] * (len(p) + len(c)) for p, c in rows]
    attention = torch.tensor(mask, device=model.device)
    logits: torch.Tensor = model(
        input_ids=torch.tensor(ids, device=model.device),
        attention_mask=attention,
        position_ids=(attention.cumsum(-1) - 1).clamp(min=0),
        logits_to_keep=width + 1,
        use_cache=False,
    ).logits
    return logits[:, :-1, :vocabulary].float().log_softmax(-1)
