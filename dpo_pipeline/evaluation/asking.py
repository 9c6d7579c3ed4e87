"""Both models asked, greedily and through the ledger of the generate stage.

What the reference already answered there costs nothing here.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import Request, Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.models.loading import load_model
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None] | None
Groups = dict[str, list[Case]]
Side = Literal["reference", "policy"]


@dataclass(frozen=True)
class Models:
    """The model before and the one after, and what both run on."""

    reference: ModelRef
    policy: ModelRef
    run_on: ModelConfig

    def load(self, side: Side) -> "PreTrainedModel":
        """Load the weights of one of them."""
        return load_model(getattr(self, side), self.run_on.device, self.run_on.dtype)


@dataclass(frozen=True)
class Asker:
    """Asks models; decoding is greedy and in process unless a call says otherwise."""

    run_on: ModelConfig
    generation: GenerationConfig
    ledger: Path

    def ask(
        self,
        ref: ModelRef,
        cases: Sequence[Case],
        on_progress: Progress = None,
        **changed: Any,
    ) -> list[Response]:
        """Ask every case, `samples` times; `changed` replaces fields of the generation."""
        greedy = {"engine": "transformers", "temperature": 0.0, "samples": 1}
        how = self.generation.model_copy(update={**greedy, **changed})
        return answer(
            ref,
            [Request(messages=c.messages, sample=i) for c in cases for i in range(how.samples)],
            model=self.run_on,
            config=how,
            ledger=self.ledger,
            on_progress=on_progress,
        )


def ask_both(
    plan: Mapping[str, Sequence[Case]],
    models: Models,
    asker: Asker,
    on_progress: Progress = None,
) -> Groups:
    """Ask both models; what one of them cannot answer (a template may refuse) is left out."""
    everything = [case for cases in plan.values() for case in cases]

    def told(offset: int) -> Progress:
        return on_progress and (lambda done, total: on_progress(offset * total + done, 2 * total))

    logger.info("asking %d prompts before and after", len(everything))
    was = asker.ask(models.reference, everything, told(0))
    now = asker.ask(models.policy, everything, told(1))
    answers = iter(zip(was, now, strict=True))
    groups: Groups = {}
    for group, cases in plan.items():
        groups[group] = [
            replace(c, before=b.text, before_finish=b.finish, after=a.text, after_finish=a.finish)
            for c, (b, a) in zip(cases, answers, strict=False)
            if "error" not in (b.finish, a.finish)
        ]
        if lost := len(cases) - len(groups[group]):
            logger.warning("%s: %d of %d prompts were not answered", group, lost, len(cases))
    return groups
