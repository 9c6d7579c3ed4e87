"""Both models asked, greedily and through the ledger of the generate stage.

What the reference already answered there costs nothing here.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None] | None
Groups = Mapping[str, Sequence[Case]]


@dataclass(frozen=True)
class Subject:
    """A model that is measured, and what it runs on."""

    ref: ModelRef
    run_on: ModelConfig

    def load(self) -> "PreTrainedModel":
        """Load its weights."""
        return load_model(self.ref, self.run_on.device, self.run_on.dtype)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load its tokenizer."""
        return load_tokenizer(self.ref)


@dataclass(frozen=True)
class Asker:
    """Asks models; decoding is greedy and in process unless a call says otherwise."""

    generation: GenerationConfig
    ledger: Path

    def ask(
        self, model: Subject, cases: Sequence[Case], on_progress: Progress = None, **changed: Any
    ) -> list[Response]:
        """Ask every case, `samples` times; `changed` replaces fields of the generation."""
        greedy = {"engine": "transformers", "temperature": 0.0, "samples": 1}
        how = self.generation.model_copy(update={**greedy, **changed})
        requests = [Request(c.messages, i) for c in cases for i in range(how.samples)]
        answered = partial(answer, model=model.run_on, config=how, ledger=self.ledger)
        return answered(model.ref, requests, on_progress=on_progress)


def ask_both(
    plan: Groups, before: Subject, after: Subject, asker: Asker, on_progress: Progress = None
) -> dict[str, list[Case]]:
    """Ask both models; what one of them cannot answer (a template may refuse) is left out."""
    everything = [case for cases in plan.values() for case in cases]

    def told(offset: int) -> Progress:
        return on_progress and (lambda done, total: on_progress(offset * total + done, 2 * total))

    logger.info("asking %d prompts before and after", len(everything))
    was = asker.ask(before, everything, told(0))
    now = asker.ask(after, everything, told(1))
    answers = iter(zip(was, now, strict=True))
    groups = {}
    for group, cases in plan.items():
        groups[group] = [
            replace(c, before=b.text, before_finish=b.finish, after=a.text, after_finish=a.finish)
            for c, (b, a) in zip(cases, answers, strict=False)
            if "error" not in (b.finish, a.finish)
        ]
        if lost := len(cases) - len(groups[group]):
            logger.warning("%s: %d of %d prompts were not answered", group, lost, len(cases))
    return groups
