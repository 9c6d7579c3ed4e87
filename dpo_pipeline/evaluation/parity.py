"""Whether a model is still itself after a reload, a merge of its adapter or another precision."""

from functools import partial
from pathlib import Path
from typing import Any

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import Request
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation import statistics
from dpo_pipeline.evaluation.cases import plan_cases
from dpo_pipeline.evaluation.likelihood import answer_rows, score_tokens
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig


def check_parity(
    original: ModelRef,
    export: ModelRef,
    *,
    prompts: Path,
    identity: IdentityConfig,
    generation: GenerationConfig,
    config: EvaluationConfig,
    model: ModelConfig,
    export_model: ModelConfig,
    ledger: Path,
) -> dict[str, Any]:
    """Compare a model with its export on held-out prompts and general questions.

    Args:
        original: The model as it was evaluated.
        export: The same model after a reload, a merge or a change of precision.
        prompts: prompts.parquet of the download stage.
        identity: The identity before and after.
        generation: Its system prompts and longest answer; decoding is greedy.
        config: How many prompts.
        model: Device and precision of the original.
        export_model: Device and precision of the export.
        ledger: Answers made so far.
    Returns:
        export_same_answers: share of equal answers. export_kl: mean KL(export || original) per
        token of the original's answers, nats; null where they have different tokens.
        largest_shift: largest change of a token's log-prob, nats; likewise. differing: prompt,
        original and export of the answers that differ.
    """
    greedy = generation.model_copy(
        update={"engine": "transformers", "temperature": 0.0, "samples": 1}
    )
    plan = plan_cases(prompts, identity, generation.system_prompts, config)
    cases = plan["held_out"] + plan["general"]
    requests = [Request(case.messages) for case in cases]
    ask = partial(answer, requests=requests, config=greedy, ledger=ledger)
    # What neither template renders is no answer of either.
    compared = [
        (case, said, says)
        for case, said, says in zip(
            cases, ask(original, model=model), ask(export, model=export_model), strict=True
        )
        if not said.finish == says.finish == "error"
    ]
    tokenizer, rows = load_tokenizer(original), []
    if load_tokenizer(export).get_vocab() == tokenizer.get_vocab():
        spoken = [(case.messages, said.text) for case, said, _ in compared if said.text]
        rows = answer_rows(tokenizer, spoken)
    scores = []
    if rows:
        scores = score_tokens(
            load_model(export, export_model.device, export_model.dtype),
            load_model(original, model.device, model.dtype),
            rows,
        )
    figures = {
        "export_same_answers": statistics.rate(
            (said.text == says.text for _, said, says in compared),
            [case.prompt for case, _, _ in compared],
        ),
        "export_kl": statistics.mean([s.kl.mean().item() for s in scores]),
    }
    return {
        **{name: figure.model_dump() for name, figure in figures.items()},
        "largest_shift": max(
            ((s.policy - s.reference).abs().max().item() for s in scores), default=None
        ),
        "differing": [
            {
                "prompt": case.messages[-1]["content"],
                "original": said.text,
                "export": says.text,
            }
            for case, said, says in compared
            if said.text != says.text
        ],
    }
