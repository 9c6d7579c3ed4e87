"""Whether a model is still itself after a reload, a merge of its adapter or another precision."""

from functools import partial
from pathlib import Path
from typing import Any

from dpo_pipeline import measures
from dpo_pipeline.config import EvaluationConfig, GenerationConfig, IdentityConfig, ModelConfig
from dpo_pipeline.generation import Request, answer
from dpo_pipeline.likelihood import answer_rows, score_tokens
from dpo_pipeline.models import ModelRef, load_model, load_tokenizer
from dpo_pipeline.questions import plan_cases


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
        same_answers: share of equal answers. kl: mean KL(export || original) per token of the
        original's answers, nats. largest_shift: largest change of a token's log-prob, nats.
        differing: prompt, original and export of the answers that differ.
    """
    greedy = generation.model_copy(
        update={"engine": "transformers", "temperature": 0.0, "samples": 1}
    )
    plan = plan_cases(prompts, identity, generation.system_prompts, config)
    asked = [case.messages for group in ("held_out", "general") for case in plan[group]]
    ask = partial(answer, requests=[Request(m) for m in asked], config=greedy, ledger=ledger)
    said, says = ask(original, model=model), ask(export, model=export_model)
    triples = [(m, a.text, b.text) for m, a, b in zip(asked, said, says, strict=True) if a.text]
    rows = answer_rows(load_tokenizer(original), [(m, text) for m, text, _ in triples])
    scores = score_tokens(
        load_model(export, export_model.device, export_model.dtype),
        load_model(original, model.device, model.dtype),
        rows,
    )
    figures = {
        "same_answers": measures.rate(a == b for _, a, b in triples),
        "kl": measures.mean([s.kl.mean().item() for s in scores]),
    }
    return {
        **{name: figure.model_dump() for name, figure in figures.items()},
        "largest_shift": max((s.policy - s.reference).abs().max().item() for s in scores),
        "differing": [
            {"prompt": m[-1]["content"], "original": a, "export": b}
            for m, a, b in triples
            if a != b
        ],
    }
