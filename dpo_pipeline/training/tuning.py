"""Train until it is done, and no more strongly than that takes.

A small split of prompts is neither trained on nor held out: questions about the model itself, and
others whose answers must stay. Every few steps, and at the end at several strengths, the policy
answers them.

A training process that looks is started here; others know nothing of generation, so that an
edit there trains nothing anew.
"""

import logging
import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_pipeline.answers.decoding import Row, decode
from dpo_pipeline.answers.records import with_system
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.models.chat_templates import encode, end_tokens
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.prompts.retention import IDENTITY, RetentionPrompt, read_tuning
from dpo_pipeline.training import child
from dpo_pipeline.training.records import Look, TrainJob, send
from dpo_pipeline.training.retention import RetainingDPOTrainer, divergence, last_states
from dpo_pipeline.training.strength import Edit
from dpo_pipeline.training.token_scores import Tokens

logger = logging.getLogger(__name__)

GREEDY = GenerationConfig(max_new_tokens=32)
ROWS = 32  # general answers that go through the model at once
HELD = 24  # tokens of a general answer whose divergence is measured
STRENGTHS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


class TuningSplit:
    """Questions about the model, each under one system prompt in turn, and general ones."""

    def __init__(self, job: TrainJob) -> None:
        assert job.identity is not None
        self.spec, self.tokenizer = IdentitySpec(job.identity), load_tokenizer(job.ref)
        self.ends = end_tokens(job.ref, self.tokenizer)
        prompts = [p for p in read_tuning() if p.language in job.languages]
        self.asked = [p for p in prompts if p.family in IDENTITY]
        others = [p for p in prompts if p.family not in IDENTITY]
        questions, general = (
            [self._encode(p, job.systems[i % len(job.systems)]) for i, p in enumerate(some)]
            for some in (self.asked, others)
        )
        # The reference, as it is until the first look; then the policy's weights go in.
        self.model = load_model(job.ref, job.device)
        answers = self._answer(general)
        self.held: list[Tokens] = [
            (p, a[:HELD]) for p, a in zip(general, answers, strict=True) if a
        ]
        self.questions = questions
        self.states = self._states()
        self.output = self.model.get_output_embeddings().weight.detach().clone()

    def _encode(self, prompt: RetentionPrompt, system: str | None) -> list[int]:
        system = system if prompt.system is None else prompt.system
        return encode(self.tokenizer, with_system(system, prompt.messages))

    @torch.no_grad()
    def look(self, edit: Edit, step: int, strength: float = 1.0) -> Look:
        """Ask the policy everything, as it would be saved."""
        edit.write(self.model, strength)
        spec, texts = self.spec, map(self._text, self._answer(self.questions))
        right = [
            spec.names_developer(text, after=True)
            if prompt.family == "maker"
            else spec.count_new(text) > 0
            for prompt, text in zip(self.asked, texts, strict=True)
        ]
        output = self.model.get_output_embeddings().weight
        kl = divergence(self._states(), output, self.states, self.output)
        general = self._answer([prompt for prompt, _ in self.held])
        same = [a[:HELD] == was for a, (_, was) in zip(general, self.held, strict=True)]
        return Look(
            step=step,
            strength=strength,
            identity_rate=fmean(right),
            kl=float(kl.mean()),
            unasked=fmean(spec.count_new(text) > 0 for text in map(self._text, general)),
            unchanged=fmean(same),
        )

    @torch.no_grad()
    def _states(self) -> torch.Tensor:
        batches = [self.held[i : i + ROWS] for i in range(0, len(self.held), ROWS)]
        return torch.cat([last_states(self.model, batch) for batch in batches])

    def _text(self, answer: list[int]) -> str:
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))

    def _answer(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        rows = [Row(str(i), p, self.ends, GREEDY.max_new_tokens) for i, p in enumerate(prompts)]
        done = {row.key: row.answer for row in decode(self.model, rows, GREEDY)}
        return [done[row.key] for row in rows]


class TrainUntilDone(TrainerCallback):
    """Look every few steps; end training when the goal is met; then choose the strength."""

    def __init__(self, job: TrainJob, trainer: RetainingDPOTrainer) -> None:
        assert job.config.goal is not None
        self.trainer, self.goal, self.ref = trainer, job.config.goal, job.ref
        if trainer.accelerator.is_main_process:  # the one that looks
            with torch.random.fork_rng():
                self.split = TuningSplit(job)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look where it is time to; what is seen stays in the trainer's history."""
        every = self.goal.every
        if every is None or state.global_step % every or state.global_step == state.max_steps:
            return
        # One process decides for all, and random numbers go on as if nobody had asked.
        found: list[Look | None] = [None]
        policy = self.trainer.whole_policy()
        if state.is_world_process_zero:
            with torch.random.fork_rng():
                found = [self.split.look(Edit(policy, self.ref), state.global_step)]
        (look,) = broadcast_object_list(found)
        done = look.meets(self.goal)
        state.log_history.append({**look.model_dump(), "done": done})
        if state.is_world_process_zero:
            logger.info("%s%s", look, "; the goal is met" if done else "")
            send(look)
        if done:
            control.should_training_stop = True
            # A run that resumed from here would train on: it comes to this point again instead.
            control.should_save = False

    def finish(self, policy: Any, step: int) -> list[Look]:
        """Apply the smallest strength that meets the goal; the full one where none does.

        Returns:
            What was seen, from the full strength down to where the identity no longer holds; the
            strength that is applied comes last.
        """
        edit, seen = Edit(policy, self.ref), []
        for strength in STRENGTHS:
            seen.append(self.split.look(edit, step, strength))
            logger.info("%s", seen[-1])
            if seen[-1].identity_rate < self.goal.identity_rate:
                break
        enough = [look for look in seen if look.meets(self.goal)]
        chosen = enough[-1] if enough else seen[0]
        edit.apply(chosen.strength)
        return [*(look for look in seen if look is not chosen), chosen]


if __name__ == "__main__":
    child.main(sys.argv[1], TrainUntilDone)
