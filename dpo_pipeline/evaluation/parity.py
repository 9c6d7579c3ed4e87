"""Whether a model is still itself after a reload, a merge of its adapter or another precision."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.asking import Asker
from dpo_pipeline.evaluation.cases import plan_cases
from dpo_pipeline.evaluation.likelihood import answer_rows, score_tokens
from dpo_pipeline.evaluation.measures import EXPORT, MEASURES, counted
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.records import Record


@dataclass(frozen=True)
class Exported:
    """One answer of a model and of its export.

    Attributes:
        prompt: What they answer.
        same: Whether they say the same.
        kl: Mean KL(export || original) per token of the original's answer, nats; None where
            it says nothing, or they have different tokens.
        shift: Largest change of a token's log-prob, nats; likewise.
    """

    prompt: Hashable
    same: bool
    kl: float | None = None
    shift: float | None = None


class Differing(Record):
    """Two answers that should be the same."""

    prompt: str
    original: str
    export: str


class ParityStats(Record):
    """What a comparison with an export is known by: answers compared, and figures."""

    rows: int
    export_same_answers: Figure
    export_kl: Figure


class Parity(ParityStats):
    """Content of parity.json.

    Attributes:
        largest_shift: Largest change of a token's log-prob, nats.
        differing: Answers that differ.
    """

    largest_shift: float | None
    differing: tuple[Differing, ...]

    def figures(self) -> dict[str, Figure]:
        """Return the measures."""
        return {m.key: getattr(self, m.key) for m in MEASURES if m.basis is EXPORT}


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
    out: Path,
) -> ParityStats:
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
        out: Folder for parity.json.
    """
    plan = plan_cases(prompts, identity, generation.system_prompts, config)
    cases = plan["held_out"] + plan["general"]
    asker = Asker(model, generation, ledger)
    was, now = asker.ask(original, cases), replace(asker, run_on=export_model).ask(export, cases)
    # What neither template renders is no answer of either.
    compared = [
        (case, said.text, says.text)
        for case, said, says in zip(cases, was, now, strict=True)
        if not said.finish == says.finish == "error"
    ]
    answers = [Exported(case.prompt, said == says) for case, said, says in compared]
    tokenizer, spoken = load_tokenizer(original), [i for i, one in enumerate(compared) if one[1]]
    if spoken and load_tokenizer(export).get_vocab() == tokenizer.get_vocab():
        scores = score_tokens(
            load_model(export, export_model.device, export_model.dtype),
            load_model(original, model.device, model.dtype),
            answer_rows(tokenizer, [(compared[i][0].messages, compared[i][1]) for i in spoken]),
        )
        for i, s in zip(spoken, scores, strict=True):
            shift = (s.policy - s.reference).abs().max().item()
            answers[i] = replace(answers[i], kl=s.kl.mean().item(), shift=shift)
    figures = counted(EXPORT, answers)
    stats = ParityStats(rows=len(answers), **figures)
    found = Parity(
        **dict(stats),
        largest_shift=max((a.shift for a in answers if a.shift is not None), default=None),
        differing=[
            Differing(prompt=case.messages[-1]["content"], original=said, export=says)
            for case, said, says in compared
            if said != says
        ],
    )
    found.write(out / "parity.json")
    return stats
