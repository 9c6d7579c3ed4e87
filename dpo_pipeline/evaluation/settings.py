"""Settings of what is measured, and of the gate."""

from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, PositiveFloat, create_model

from dpo_pipeline.evaluation.measures import MEASURES
from dpo_pipeline.store.settings import MOST, AtLeastOne, Count, NoEffect, Section

Lines = TypeVar("Lines", bound=Section)


class LmEvalConfig(Section):
    """Tasks of lm-eval as more lines of the scorecard; needs the extra lm-eval."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of tasks, or YAML files of your own (JSON list)."""
    limit: AtLeastOne | None = 200
    """At most this many questions of a task; null: all."""


class EvaluationConfig(Section):
    """What is measured before and after; answers are greedy."""

    max_prompts: AtLeastOne = 60
    """At most this many held-out identity prompts, the same every time."""
    max_new_tokens: AtLeastOne = 48
    """Longest answer (tokens)."""
    trained_prompts: Count = 20
    """Prompts of the training set asked again; 0: none."""
    general: NoEffect[str | None] = None
    """JSONL of general questions with accepted answers; null: the shipped set, of the starter
    'starter', what that toy was taught."""
    max_pairs: Count = 32
    """Held-out pairs whose rewards are measured; 0: none."""
    matrix_prompts: Count = 12
    """Held-out prompts asked under each of six system prompts; 0: none."""
    noise_prompts: Count = 24
    """Prompts of each kind that the reference answers again in another batch size, to see the
    machine's own noise; 0: none."""
    sampled: Count | None = None
    """Extra sampled answers a prompt at each temperature, 0: greedy only; null: from the model (1,
    and 0 of the starter, a toy whose chance says little)."""
    temperatures: tuple[PositiveFloat, ...] = (0.7, 1.0)
    """Temperatures of the sampled answers (JSON list)."""
    lm_eval: LmEvalConfig | None = None
    """Tasks of lm-eval that both models are scored on; null: none."""

    def resolve(self, model: str) -> Self:
        """Fill in what is left to the model."""
        toy = model == "starter"
        general = self.general or ("starter" if toy else None)
        sampled = (0 if toy else 1) if self.sampled is None else self.sampled
        return self.model_copy(update={"general": general, "sampled": sampled})


def _with_lines(model: type[Lines]) -> type[Lines]:
    """Give a section an option for every measure that has a line of the gate."""
    bounds = {"%": (0, 1), "points": (0, 100), "answers": (1, MOST)}
    options: dict[str, Any] = {}
    for measure in (m for m in MEASURES if m.asks):
        least = 0 if measure.direction == "≤" else None
        low, high = bounds.get(measure.unit, (least, None))
        option = Field(measure.gate, ge=low, le=high, description=measure.asks)
        options[measure.key] = (int if measure.unit == "answers" else float | None, option)
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **options)


@_with_lines
class GateConfig(Section):
    """Thresholds that the scorecard after training must meet; null switches a line off.

    A line that is on and could not be measured fails.
    """
