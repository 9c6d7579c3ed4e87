"""Whether a model is still itself after a reload, a merge of its adapter or another precision."""

from pathlib import Path
from typing import NamedTuple

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.asking import Asker, Subject
from dpo_pipeline.evaluation.cases import Prompt, plan_cases
from dpo_pipeline.evaluation.measures import EXPORT, MEASURES, counted
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.store.records import Record
from dpo_pipeline.training.token_scores import answer_rows, score_tokens


class Exported(NamedTuple):
    """One answer of an export against the original's; null where tokens cannot be compared."""

    prompt: Prompt
    same: bool
    kl: float | None = None  # mean KL(export || original) per token of the original's answer, nats
    shift: float = 0.0  # largest change of a token's log-prob, nats


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

    def figures(self) -> dict[str, Figure]:
        """Return the measures."""
        return {m.key: getattr(self, m.key) for m in MEASURES if m.basis is EXPORT}


class Parity(ParityStats):
    """Content of parity.json; largest_shift: largest change of a token's log-prob, nats."""

    largest_shift: float | None
    differing: tuple[Differing, ...]


def check_parity(
    original: Subject,
    export: Subject,
    *,
    prompts: Path,
    identity: IdentityConfig,
    generation: GenerationConfig,
    config: EvaluationConfig,
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
        ledger: Answers made so far.
        out: Folder for parity.json.
    """
    plan = plan_cases(prompts, identity, generation.system_prompts, config)
    cases, asker = plan["held_out"] + plan["general"], Asker(generation, ledger)
    # What neither template renders is no answer of either.
    compared = [
        (case, said.text, says.text)
        for case, said, says in zip(
            cases, asker.ask(original, cases), asker.ask(export, cases), strict=True
        )
        if not said.finish == says.finish == "error"
    ]
    answers = [Exported(case.prompt, said == says) for case, said, says in compared]
    tokenizer, spoken = original.tokenizer(), [i for i, (_, said, _) in enumerate(compared) if said]
    if spoken and export.tokenizer().get_vocab() == tokenizer.get_vocab():
        rows = answer_rows(tokenizer, [(compared[i][0].messages, compared[i][1]) for i in spoken])
        scores = score_tokens(export.load(), original.load(), rows)
        for i, s in zip(spoken, scores, strict=True):
            shift = (s.policy - s.reference).abs().max().item()
            answers[i] = answers[i]._replace(kl=s.kl.mean().item(), shift=shift)
    stats = ParityStats(rows=len(answers), **counted(EXPORT, answers))
    differing = [
        Differing(prompt=case.asked, original=said, export=says)
        for case, said, says in compared
        if said != says
    ]
    largest = max((a.shift for a in answers if a.kl is not None), default=None)
    Parity(**dict(stats), largest_shift=largest, differing=differing).write(out / "parity.json")
    return stats
