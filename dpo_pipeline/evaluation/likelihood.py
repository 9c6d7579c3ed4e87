"""How likely both models find the answers of held-out pairs."""

import json
import logging
from collections.abc import Hashable, Iterable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

from dpo_pipeline.evaluation.cases import Subject
from dpo_pipeline.evaluation.measures import PAIRS, counted
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


def same_tokens(before: Subject, after: Subject) -> bool:
    """Tell whether two models have the same tokens; others cannot be compared token by token."""
    if after.tokenizer().get_vocab() == before.tokenizer().get_vocab():
        return True
    names = (before.ref.name, after.ref.name)
    logger.warning("%s and %s have different tokens: no rewards, no KL", *names)
    return False


def measure_pairs(
    before: Subject, after: Subject, pairs: Iterable[Row], *, beta: float, max_pairs: int
) -> dict[str, Figure]:
    """Measure rewards on held-out pairs: at most `max_pairs`, the same every time.

    Of models with different tokens all figures are null.
    """
    tokenizer = before.tokenizer()
    kept = sorted(pairs, key=lambda row: str(row["id"]))[:max_pairs]
    if not kept or not same_tokens(before, after):
        return counted(PAIRS, [])
    prompts = [row["prompt_id"] for row in kept]
    rows, ends = token_scores.pair_rows(tokenizer, kept), end_tokens(before.ref, tokenizer)
    scores = token_scores.score_tokens(after.load(), before.load(), rows)
    return counted(PAIRS, score_pairs(rows, scores, beta, ends, prompts))


class PreferenceStats(Record):
    """What preference training changed: rows (pairs at most), and every figure with any."""

    rows: int
    measures: dict[str, Figure]


def compare_preferences(
    before: Subject, after: Subject, held_out: Path, *, beta: float, max_pairs: int, out: Path
) -> PreferenceStats:
    """Measure held-out pairs of a preference dataset; write preferences.json."""
    pairs = read_rows(held_out)
    found = measure_pairs(before, after, pairs, beta=beta, max_pairs=max_pairs)
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
