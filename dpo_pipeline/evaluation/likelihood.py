"""How likely both models find given answers: rewards of pairs, and divergence on other text."""

import logging
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from dpo_pipeline.evaluation import statistics
from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.evaluation.statistics import Measure
from dpo_pipeline.models.chat_templates import Message, end_tokens
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import tokenize_pair

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

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


def measure_likelihoods(
    before: ModelRef,
    after: ModelRef,
    pairs: Iterable[dict[str, Any]],
    general: Sequence[Case],
    aside: Collection[str] = (),
    *,
    model: ModelConfig,
    train: TrainConfig,
    config: EvaluationConfig,
) -> dict[str, Measure]:
    """Measure rewards on held-out pairs, and KL on the reference's own general answers.

    Models with different tokens cannot be compared this way: then all measures are null.

    Args:
        before: The reference.
        after: The policy.
        pairs: prompt_id, prompt, chosen and rejected of pairs in any order; `config.max_pairs`
            of them are measured, the same every time.
        general: Answered general questions.
        aside: Ids of prompts whose pairs are left out.
        model: Device and precision.
        train: Its beta scales the rewards.
        config: How many pairs.
    Returns:
        preference_accuracy: share of pairs with a positive reward margin.
        preference_loss: mean DPO loss; ln 2 where policy and reference agree.
        reward_margin: mean reward of chosen - reward of rejected.
        chosen_shift, rejected_shift: mean log-prob change of the answer, nats.
        edited_shift: the part of chosen_shift on tokens that differ from rejected, nats.
        tail_shift: mean log-prob change of the tokens copied after the first edit, nats per
            token.
        tail_gap: mean log-prob of these tokens under the policy, after the new name, less that
            under the reference, after the old one, nats per token. Near 0 the sentence is
            whole; DPO on small edits is known to let its rest fall.
        kl: mean KL(policy || reference) per token, nats.
    """
    tokenizer = load_tokenizer(before)
    kept = [row for row in pairs if row["prompt_id"] not in aside]
    kept = sorted(kept, key=lambda row: str(row["id"]))[: config.max_pairs]
    prompts = [row["prompt_id"] for row in kept]
    rows = pair_rows(tokenizer, kept)
    paired = len(rows)
    ends = end_tokens(before, tokenizer)
    neutral = answer_rows(tokenizer, [(c.messages, c.before) for c in general if c.before])
    rows += [(prompt, said[: spoken(said, ends)]) for prompt, said in neutral]
    if load_tokenizer(after).get_vocab() != tokenizer.get_vocab():
        logger.warning(
            "%s and %s have different tokens: no rewards, no KL", before.name, after.name
        )
        rows, paired, prompts = [], 0, []
    scores = []
    if rows:
        policy, reference = (load_model(ref, model.device, model.dtype) for ref in (after, before))
        scores = score_tokens(policy, reference, rows)
    return {
        **preference_measures(rows[:paired], scores[:paired], train.beta, ends, prompts),
        "kl": statistics.mean([s.kl.mean().item() for s in scores[paired:]]),
    }


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

    Rows that one of them pads its vocabulary with are left out.
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


def preference_measures(
    rows: Sequence[Tokens],
    scores: Sequence[TokenScores],
    beta: float,
    ends: Sequence[int] = (),
    prompts: Sequence[Hashable] = (),
) -> dict[str, Measure]:
    """Turn the scores of (chosen, rejected, chosen, rejected, ...) into preference measures.

    Args:
        rows: Tokens of the pairs.
        scores: Log-probs of these, in the same order.
        beta: Scales the rewards.
        ends: Tokens that end an answer.
        prompts: Prompt of every pair; empty: all another.
    """
    import torch

    from dpo_pipeline.training.loss import dpo_loss

    # Rows: chosen, rejected; a column is a pair.
    policy = torch.tensor([s.policy.double().sum() for s in scores]).view(-1, 2).T
    reference = torch.tensor([s.reference.double().sum() for s in scores]).view(-1, 2).T
    losses, chosen, rejected = dpo_loss(policy[0], policy[1], reference[0], reference[1], beta)
    shifts = (policy - reference).tolist()
    edited, tails, gaps, tailed = [], [], [], []
    for i in range(0, len(rows), 2):
        chosen_ids, rejected_ids = (row[: spoken(row, ends)] for _, row in rows[i : i + 2])
        changed, copied = align(chosen_ids, rejected_ids)
        shift = scores[i].policy - scores[i].reference
        edited.append(shift[changed].sum().item())
        if copied:
            new, old = map(list, zip(*copied, strict=True))
            tails.append(shift[new].mean().item())
            tailed.append(prompts[i // 2] if prompts else i)
            gaps.append((scores[i].policy[new] - scores[i + 1].reference[old]).mean().item())
    return {
        "preference_accuracy": statistics.rate((chosen > rejected).tolist(), prompts),
        "preference_loss": statistics.mean(losses.tolist(), prompts),
        "reward_margin": statistics.mean((chosen - rejected).tolist(), prompts),
        "chosen_shift": statistics.mean(shifts[0], prompts),
        "rejected_shift": statistics.mean(shifts[1], prompts),
        "edited_shift": statistics.mean(edited, prompts),
        "tail_shift": statistics.mean(tails, tailed),
        "tail_gap": statistics.mean(gaps, tailed),
    }


def spoken(completion: Sequence[int], ends: Sequence[int]) -> int:
    """Count the tokens up to the one that ends the answer; a template may write more after it."""
    return max((i + 1 for i, token in enumerate(completion) if token in ends), default=0) or len(
        completion
    )


def align(
    chosen: Sequence[int], rejected: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Find the edit and the copied tail of a pair.

    Returns:
        Positions in chosen that rejected does not have; and (position in chosen, position in
        rejected) of every token copied after the first edit.
    """
    changed: list[int] = []
    copied: list[tuple[int, int]] = []
    seen = False
    matcher = SequenceMatcher(None, rejected, chosen, autojunk=False)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag != "equal":
            seen = True
            changed += range(j1, j2)
        elif seen:
            copied += zip(range(j1, j2), range(i1, i2), strict=True)
    return changed, copied
