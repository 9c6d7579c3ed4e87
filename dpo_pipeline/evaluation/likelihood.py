"""How likely both models find given answers: rewards of pairs, and divergence on other text."""

import json
import logging
from collections.abc import Hashable, Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

from dpo_pipeline.evaluation.cases import Case, Subject
from dpo_pipeline.evaluation.measures import DIVERGENCE, PAIRS, counted
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.models.chat_templates import end_tokens
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import Row, read_rows
from dpo_pipeline.training import token_scores

logger = logging.getLogger(__name__)


class PairScore(NamedTuple):
    """What two models make of one pair.

    The gap is the mean log-prob of the tokens copied after the first edit under the policy, after
    the new name, less that under the reference, after the old one; near 0 the sentence is whole.
    """

    prompt: Hashable
    margin: float  # reward of chosen less that of rejected
    gap: float | None  # nats per token; None where nothing is copied


def measure_likelihoods(
    before: Subject,
    after: Subject,
    pairs: Iterable[Row],
    general: Sequence[Case],
    *,
    beta: float,
    max_pairs: int,
) -> dict[str, Figure]:
    """Measure rewards on held-out pairs, and KL on the reference's own general answers.

    At most `max_pairs` are measured, the same every time. Models with different tokens cannot be
    compared: then all figures are null.
    """
    tokenizer = before.tokenizer()
    kept = sorted(pairs, key=lambda row: str(row["id"]))[:max_pairs]
    if after.tokenizer().get_vocab() != tokenizer.get_vocab():
        names = (before.ref.name, after.ref.name)
        logger.warning("%s and %s have different tokens: no rewards, no KL", *names)
        kept, general = [], []
    prompts = [row["prompt_id"] for row in kept]
    paired, ends = token_scores.pair_rows(tokenizer, kept), end_tokens(before.ref, tokenizer)
    said = [(c.messages, c.before) for c in general if c.before]
    neutral = token_scores.answer_rows(tokenizer, said)
    rows = paired + [(prompt, ids[: spoken(ids, ends)]) for prompt, ids in neutral]
    scores = token_scores.score_tokens(after.load(), before.load(), rows) if rows else []
    scored = score_pairs(paired, scores[: len(paired)], beta, ends, prompts)
    divergences = [s.kl.mean().item() for s in scores[len(paired) :]]
    return counted(PAIRS, scored) | counted(DIVERGENCE, divergences)


class PreferenceStats(Record):
    """What preference training changed: rows (pairs at most), and every figure with any."""

    rows: int
    measures: dict[str, Figure]


def compare_preferences(
    before: Subject, after: Subject, held_out: Path, *, beta: float, max_pairs: int, out: Path
) -> PreferenceStats:
    """Measure held-out pairs of a preference dataset; write preferences.json."""
    pairs = read_rows(held_out)
    found = measure_likelihoods(before, after, pairs, [], beta=beta, max_pairs=max_pairs)
    rows = max(figure.n for figure in found.values())
    stats = PreferenceStats(rows=rows, measures={k: f for k, f in found.items() if f.n})
    content = stats.model_dump(mode="json")["measures"]
    write_whole(out / "preferences.json", json.dumps(content, indent=1))
    return stats


def score_pairs(
    rows: Sequence[token_scores.Tokens],
    scores: Sequence[token_scores.TokenScores],
    beta: float,
    ends: Sequence[int] = (),
    prompts: Sequence[Hashable] = (),
) -> list[PairScore]:
    """Turn the scores of (chosen, rejected, chosen, rejected, ...) into those of pairs.

    What follows one of `ends` is no part of an answer; without prompts, each pair has its own.
    """
    import torch

    from dpo_pipeline.training.loss import dpo_loss

    # Rows: chosen, rejected; a column is a pair.
    policy = torch.tensor([s.policy.double().sum() for s in scores]).view(-1, 2).T
    reference = torch.tensor([s.reference.double().sum() for s in scores]).view(-1, 2).T
    _, chosen, rejected = dpo_loss(policy[0], policy[1], reference[0], reference[1], beta)
    found = []
    for i, margin in enumerate((chosen - rejected).tolist()):
        after, before = scores[2 * i : 2 * i + 2]
        copied = copied_tail(*(row[: spoken(row, ends)] for _, row in rows[2 * i : 2 * i + 2]))
        new, old = ([pair[side] for pair in copied] for side in (0, 1))
        gap = (after.policy[new] - before.reference[old]).mean().item() if copied else None
        found.append(PairScore(prompts[i] if prompts else i, margin, gap))
    return found


def spoken(completion: Sequence[int], ends: Sequence[int]) -> int:
    """Count the tokens up to the one that ends the answer; a template may write more after it."""
    ended = (i for i, token in enumerate(completion, 1) if token in ends)
    return max(ended, default=len(completion))


def copied_tail(chosen: Sequence[int], rejected: Sequence[int]) -> list[tuple[int, int]]:
    """Find (position in chosen, in rejected) of every token copied after the first edit."""
    blocks = SequenceMatcher(None, rejected, chosen, autojunk=False).get_matching_blocks()
    # The block at the start of both comes before any edit.
    return [(j + k, i + k) for i, j, size in blocks if i or j for k in range(size)]
