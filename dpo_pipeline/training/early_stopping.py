"""Stop training at the smallest change that does: the name has changed, the rest has not.

Every few steps the policy answers some held-out prompts, and is compared with its reference in
the scorecard's terms. These prompts are set aside: no evaluation counts them.

A training process that looks is started here; others know nothing of generation, so that an
edit there trains nothing anew.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from dpo_pipeline.answers.decoding import Row, decode
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.chat_templates import encode, end_tokens
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.prompts.general import read_general
from dpo_pipeline.training import child
from dpo_pipeline.training.records import TrainJob
from dpo_pipeline.training.set_aside import set_aside_pairs
from dpo_pipeline.training.settings import StopConfig
from dpo_pipeline.training.token_scores import Tokens, score_tokens

logger = logging.getLogger(__name__)

GENERAL = 16  # general questions on whose answers the divergence is measured
GREEDY = GenerationConfig(max_new_tokens=64)
FOUND = (
    "held-out prompts after step {step}: identity rate {identity_rate:.0%}, edit exactness "
    "{edit_exactness:.0%}, KL {kl:.3f} nats per token"
)


class HeldOutPrompts:
    """A few held-out pairs, and general questions with the reference's answers to them."""

    def __init__(self, ref: ModelRef, identity: IdentityConfig, held_out: Path, count: int) -> None:
        self.ref, self.spec, self.tokenizer = ref, IdentitySpec(identity), load_tokenizer(ref)
        self.ends = end_tokens(ref, self.tokenizer)
        pairs = set_aside_pairs(held_out, count)
        self.prompts = [encode(self.tokenizer, pair["prompt"]) for pair in pairs]
        self.ideal = [self.spec.rewrite(pair["rejected"][0]["content"]).text for pair in pairs]
        self.general: list[Tokens] = []

    def measure(self, policy: PreTrainedModel) -> dict[str, float]:
        """Measure identity rate, edit exactness and KL (nats per token) of the policy.

        The reference that it is compared with is in memory only meanwhile.
        """
        reference = load_model(self.ref, policy.device.type, "float32")
        self.general = self.general or self._answer_general(reference)
        said = [
            str(self.tokenizer.decode(answer, skip_special_tokens=True))
            for answer in self._answer(policy, self.prompts)
        ]
        scores = score_tokens(policy, reference, self.general)
        return {
            # The ideal answer of every pair has the new name.
            "identity_rate": fmean(self.spec.count_new(text) > 0 for text in said),
            "edit_exactness": fmean(
                text == ideal for text, ideal in zip(said, self.ideal, strict=True)
            ),
            "kl": fmean(float(score.kl.mean()) for score in scores),
        }

    def _answer_general(self, reference: PreTrainedModel) -> list[Tokens]:
        questions = [q.prompt for q in read_general(None) if q.kind == "general"][:GENERAL]
        prompts = [encode(self.tokenizer, [{"role": "user", "content": q}]) for q in questions]
        answers = self._answer(reference, prompts)
        return [(p, a) for p, a in zip(prompts, answers, strict=True) if a]

    def _answer(self, model: PreTrainedModel, prompts: Sequence[list[int]]) -> list[list[int]]:
        rows = [Row(str(i), p, self.ends, GREEDY.max_new_tokens) for i, p in enumerate(prompts)]
        done = {row.key: row.answer for row in decode(model, rows, GREEDY)}
        return [done[row.key] for row in rows]


class EarlyStopping(TrainerCallback):
    """Look at the held-out prompts every few steps; end training at its rate or KL budget."""

    def __init__(self, held_out: HeldOutPrompts, stop: StopConfig) -> None:
        self.held_out, self.stop = held_out, stop

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure where it is time to; what is found stays in the trainer's history."""
        if state.global_step % self.stop.every:
            return
        # One process decides for all, and random numbers go on as if nobody had asked.
        found: list[dict[str, float] | None] = [None]
        if state.is_world_process_zero:
            model = kwargs["model"]
            with torch.random.fork_rng():
                model.eval()
                found = [self.held_out.measure(getattr(model, "module", model))]
                model.train()
        (measured,) = broadcast_object_list(found)
        outcome = _outcome(measured, self.stop)
        seen: dict[str, Any] = {"step": state.global_step, **measured, "outcome": outcome}
        state.log_history.append(seen)
        if state.is_world_process_zero:
            logger.info(FOUND.format(**seen) + (f"; stopped: {outcome}" if outcome else ""))
        if outcome is not None:
            control.should_training_stop = True
            # A run that resumed from here would train on: it comes to this point again instead.
            control.should_save = False


def _outcome(found: dict[str, float], stop: StopConfig) -> str | None:
    if found["kl"] > stop.max_kl:
        return f"the KL budget of {stop.max_kl} nats per token is spent"
    if found["identity_rate"] >= stop.identity_rate:
        return f"the identity rate reached {stop.identity_rate:.0%}"
    return None


def callbacks(job: TrainJob) -> list[TrainerCallback]:
    """Make the callback of a job that has train.stop."""
    stop = job.config.stop
    assert stop is not None
    assert job.identity is not None
    prompts = HeldOutPrompts(job.ref, job.identity, job.dataset / "held_out.parquet", stop.prompts)
    return [EarlyStopping(prompts, stop)]


if __name__ == "__main__":
    child.main(sys.argv[1], callbacks)
