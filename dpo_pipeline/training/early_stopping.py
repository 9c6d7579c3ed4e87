"""Stop training at the smallest change that does: the name has changed, the rest has not.

Every few steps the policy answers some held-out prompts, and is compared with its reference
by the measures of the scorecard. These prompts are set aside: no evaluation counts them.

A training process that looks is started here; others know nothing of generation and measures,
so that an edit there trains nothing anew.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, TrainerCallback

from dpo_pipeline.answers.decoding import Row, decode
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.cases import Case, probe_pairs, read_general
from dpo_pipeline.evaluation.likelihood import Tokens, pair_rows, score_pairs, score_tokens
from dpo_pipeline.evaluation.marking import score
from dpo_pipeline.evaluation.measures import HELD_OUT, PAIRS, counted
from dpo_pipeline.evaluation.statistics import mean
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.chat_templates import encode, end_tokens
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.training import child as worker
from dpo_pipeline.training.settings import StopConfig, TrainConfig

NEUTRAL = 16  # general questions on whose answers the divergence is measured
GREEDY = GenerationConfig(max_new_tokens=64)


class Probe:
    """A few held-out pairs, and general questions with the reference's answers to them."""

    def __init__(self, ref: ModelRef, identity: IdentityConfig, stop: StopConfig, held_out: Path):
        self.ref, self.spec, self.tokenizer = ref, IdentitySpec(identity), load_tokenizer(ref)
        self.ends = end_tokens(ref, self.tokenizer)
        pairs = probe_pairs(held_out, stop.prompts)
        self.prompts = [encode(self.tokenizer, pair["prompt"]) for pair in pairs]
        self.cases = [
            Case("identity", tuple(pair["prompt"]), before=pair["rejected"][0]["content"])
            for pair in pairs
        ]
        self.pairs = pair_rows(self.tokenizer, pairs)
        self.neutral: list[Tokens] = []

    def measure(self, policy: PreTrainedModel) -> dict[str, Any]:
        """Ask the policy and compare it with the reference, which is in memory only meanwhile.

        Returns:
            identity_rate, edit_exactness, tail_gap (nats per token) and kl (nats per token).
        """
        reference = load_model(self.ref, policy.device.type, "float32")
        self.neutral = self.neutral or self._answer_neutral(reference)
        said = self._answer(policy, self.prompts)
        texts = [str(self.tokenizer.decode(a, skip_special_tokens=True)) for a in said]
        cases = [
            Case(c.kind, c.messages, c.before, t) for c, t in zip(self.cases, texts, strict=True)
        ]
        scores = score_tokens(policy, reference, self.pairs + self.neutral)
        cut = len(self.pairs)
        found = counted(HELD_OUT, score(cases, self.spec))
        found |= counted(PAIRS, score_pairs(self.pairs, scores[:cut], 1.0, self.ends))
        found["kl"] = mean([float(s.kl.mean()) for s in scores[cut:]])
        return {
            # The ideal answer of every pair has the new name.
            "identity_rate": found["identity_rate_all"].value,
            **{name: found[name].value for name in ("edit_exactness", "tail_gap", "kl")},
        }

    def _answer_neutral(self, reference: PreTrainedModel) -> list[Tokens]:
        questions = [c.messages for c in read_general(None) if c.kind == "general"][:NEUTRAL]
        prompts = [encode(self.tokenizer, messages) for messages in questions]
        answers = self._answer(reference, prompts)
        return [(p, a) for p, a in zip(prompts, answers, strict=True) if a]

    def _answer(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        rows = [Row(str(i), p, self.ends, GREEDY.max_new_tokens) for i, p in enumerate(prompts)]
        done = {row.key: row.answer for row in decode(model, rows, GREEDY)}
        return [done[row.key] for row in rows]


class StopAtTarget(TrainerCallback):
    """Ask the probe every few steps; end training at its identity rate or KL budget."""

    def __init__(self, probe: Probe, stop: StopConfig) -> None:
        self.probe, self.stop = probe, stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where a probe is due; what it found stays in the trainer's history."""
        if state.global_step % self.stop.every:
            return
        # One process decides for all, and random numbers go on as if nobody had asked.
        found: list[Any] = [None]
        if state.is_world_process_zero:
            model = kwargs["model"]
            with torch.random.fork_rng():
                model.eval()
                found = [self.probe.measure(getattr(model, "module", model))]
                model.train()
        (measured,) = broadcast_object_list(found)
        outcome = _outcome(measured, self.stop)
        state.log_history.append({"step": state.global_step, **measured, "outcome": outcome})
        if state.is_world_process_zero:
            worker.send({"probe": state.global_step, **measured, "outcome": outcome})
        if outcome is not None:
            control.should_training_stop = True
            # A run that resumed from here would train on: it comes to this point again instead.
            control.should_save = False


def _outcome(found: dict[str, Any], stop: StopConfig) -> str | None:
    if found["kl"] > stop.max_kl:
        return f"the KL budget of {stop.max_kl} nats per token is spent"
    if found["identity_rate"] >= stop.identity_rate:
        return f"the identity rate reached {stop.identity_rate:.0%}"
    return None


def callbacks(job: dict[str, Any]) -> list[TrainerCallback]:
    """Make the callback of a job that has train.stop."""
    stop = TrainConfig.model_validate(job["config"]).stop
    assert stop is not None
    ref = ModelRef.model_validate(job["ref"])
    identity = IdentityConfig.model_validate(job["identity"])
    return [StopAtTarget(Probe(ref, identity, stop, Path(job["held_out"])), stop)]


if __name__ == "__main__":
    worker.main(sys.argv[1], "dpo_pipeline.training.early_stopping", callbacks)
