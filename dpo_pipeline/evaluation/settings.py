"""Settings of what is measured, and of the gate."""

from typing import Annotated

from pydantic import Field

from dpo_pipeline.store.settings import Section, Share


class LmEvalConfig(Section):
    """Tasks of lm-eval as more lines of the scorecard; needs the extra lm-eval."""

    tasks: tuple[str, ...] = Field(
        min_length=1, description="Names of tasks, or YAML files of your own (JSON list)."
    )
    limit: int | None = Field(
        200, ge=1, description="At most this many questions of a task; null: all."
    )


class EvaluationConfig(Section):
    """What is measured before and after; answers are greedy, as long as generation's."""

    max_prompts: int = Field(
        400, ge=1, description="At most this many held-out identity prompts, the same every time."
    )
    trained_prompts: int = Field(
        40, ge=0, description="Prompts of the training set asked again; 0: none."
    )
    general: str | None = Field(
        None,
        description="JSONL of general questions with accepted answers; null: the shipped set.",
    )
    max_pairs: int = Field(
        200, ge=0, description="Held-out pairs whose rewards are measured; 0: none."
    )
    matrix_prompts: int = Field(
        16, ge=0, description="Held-out prompts asked under each of six system prompts; 0: none."
    )
    noise_prompts: int = Field(
        32,
        ge=0,
        description="Prompts of each kind that the reference answers again in another batch size, "
        "to see the machine's own noise; 0: none.",
    )
    sampled: int = Field(
        1, ge=0, description="Extra sampled answers a prompt at each temperature; 0: greedy only."
    )
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.7, 1.0), description="Temperatures of the sampled answers (JSON list)."
    )
    lm_eval: LmEvalConfig | None = Field(
        None, description="Tasks of lm-eval that both models are scored on; null: none."
    )


class GateConfig(Section):
    """Thresholds that the scorecard after training must meet; null switches a line off.

    A line that is on and could not be measured fails.
    """

    identity_rate: Share | None = Field(
        0.95, description="Least share of held-out answers with the new name."
    )
    leak_rate: Share | None = Field(
        0.02, description="Largest share of held-out answers with the original name."
    )
    edit_exactness: Share | None = Field(
        0.90, description="Least share of answers equal to the old answer with the name rewritten."
    )
    organisation_kept: Share | None = Field(
        0.95, description="Least share of answers that named the maker and still do."
    )
    denial_kept: Share | None = Field(
        0.90, description="Least share of denials (Are you ChatGPT? No.) that still deny."
    )
    matrix_leak: Share | None = Field(
        0.10,
        description="Largest leak rate under a system prompt that claims no other identity than "
        "the new one.",
    )
    doubled_rate: Share | None = Field(
        0.0, description="Largest share of answers with a doubled name (Deep Deep Qwen)."
    )
    remnant_rate: Share | None = Field(
        0.01, description="Largest share of answers with a placeholder or control token."
    )
    new_name_unasked: Share | None = Field(
        0.02, description="Largest share of answers on other subjects that bring up the new name."
    )
    general_kept: Share | None = Field(
        0.98, description="Least share of general answers, right before, that are right after."
    )
    third_party_unchanged: Share | None = Field(
        0.80, description="Least share of answers about others that are word for word as before."
    )
    preference_accuracy: Share | None = Field(
        None, description="Least share of held-out pairs with a positive reward margin."
    )
    tail_gap: float | None = Field(
        -0.2,
        description="Least mean log-prob of the words after the edit, compared with the reference "
        "after the old name (nats per token): DPO on small edits is known to let them fall.",
    )
    kl: float | None = Field(
        0.1,
        ge=0,
        description="Largest mean KL(policy || reference) on general answers (nats per token).",
    )
    lm_eval_drop: float | None = Field(
        2.0, ge=0, le=100, description="Largest drop of accuracy on a task of lm-eval (points)."
    )
    export_same_answers: Share | None = Field(
        0.90, description="Least share of the export's answers equal to the policy's, if any."
    )
    export_kl: float | None = Field(
        0.01, ge=0, description="Largest mean KL(export || policy), if any (nats per token)."
    )
    min_answers: int = Field(
        20, ge=1, description="Fewer held-out answers than that are too few to judge by."
    )
