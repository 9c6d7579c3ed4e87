"""How far a policy is from its reference on the reference's own answers to general questions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dpo_pipeline.evaluation.cases import Case, Subject
from dpo_pipeline.evaluation.likelihood import same_tokens, spoken
from dpo_pipeline.evaluation.measures import DIVERGENCE, counted
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.models.chat_templates import end_tokens
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.training import retention, token_scores


def measure_divergence(
    before: Subject, after: Subject, general: Sequence[Case], references: Path
) -> dict[str, Figure]:
    """Measure KL(policy || reference) on the reference's own general answers.

    The reference's last hidden states are kept in the folder `references`: they are the same for
    every policy. Of models with different tokens the figure is null.
    """
    tokenizer = before.tokenizer()
    said = [(c.messages, c.before) for c in general if c.before]
    if not said or not same_tokens(before, after):
        return counted(DIVERGENCE, [])
    ends = end_tokens(before.ref, tokenizer)
    rows = [(p, ids[: spoken(ids, ends)]) for p, ids in token_scores.answer_rows(tokenizer, said)]
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))  # batches of like length
    reference, policy = before.load(), after.load()
    precision = str(reference.dtype)
    parts = {"weights": before.ref.weights_digest, "rows": digest_of(rows), "precision": precision}
    file = references / f"{digest_of(parts)}.safetensors"
    if (held := retention.read_states(file, rows)) is None:
        held = _states(reference, rows)
        retention.write_states(file, held)
    if not _scored_by_output_layer(reference, rows[0], held[0]):
        scores = token_scores.score_tokens(policy, reference, rows)
        return counted(DIVERGENCE, [s.kl.mean().item() for s in scores])
    shared = min(m.config.get_text_config().vocab_size for m in (policy, reference))
    ours, theirs = (m.get_output_embeddings().weight[:shared] for m in (policy, reference))
    with torch.no_grad():
        kls = [
            retention.divergence(was.to(theirs.device), theirs, now.to(ours.device), ours)
            for was, now in zip(held, _states(policy, rows), strict=True)
        ]
    return counted(DIVERGENCE, [kl.mean().item() for kl in kls])


@torch.no_grad()
def _states(model: PreTrainedModel, rows: Sequence[token_scores.Tokens]) -> list[Tensor]:
    """Run rows in batches; the last hidden states of each answer."""
    found: list[Tensor] = []
    for start in range(0, len(rows), retention.ROWS):
        batch = rows[start : start + retention.ROWS]
        lengths = [len(answer) for _, answer in batch]
        found += retention.last_states(model, batch).cpu().split(lengths)
    return found


@torch.no_grad()
def _scored_by_output_layer(
    model: PreTrainedModel, row: token_scores.Tokens, states: Tensor
) -> bool:
    """Tell whether a model's scores are its output layer times its states, and nothing more."""
    ids = torch.tensor([[*row[0], *row[1]]], device=model.device)
    plain: Any = model
    said = plain(input_ids=ids, use_cache=False).logits[0, len(row[0]) - 1 : -1].float()
    ours = (states.to(ids.device) @ plain.get_output_embeddings().weight.mT).float()
    said, ours = said.log_softmax(-1), ours.log_softmax(-1)
    return float((said.exp() * (said - ours)).sum(-1).mean()) < 0.01
