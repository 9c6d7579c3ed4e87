"""Whether a model is still itself after a reload, a merge of its adapter or another precision."""

from pathlib import Path
from typing import NamedTuple

from dpo_pipeline.answers.records import Spread
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.evaluation.cases import Asker, Prompt, Subject, plan_cases
from dpo_pipeline.evaluation.measures import EXPORT, counted
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.store.records import Record
from dpo_pipeline.training.token_scores import answer_rows, score_tokens


class Exported(NamedTuple):
    """Answers of an export against the original's."""

    same: list[bool]
    prompts: list[Prompt]
    kls: list[float]  # mean KL(export || original) of each answer but silence; none: other tokens


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
    spread: Spread | None = None,  # has others answer
    out: Path,
) -> ParityStats:
    """Compare a model with its export on held-out and general questions; write parity.json."""
    plan = plan_cases(prompts, identity, generation.system_prompts, config)
    cases = plan["held_out"] + plan["general"]
    asker = Asker(generation, config.max_new_tokens, ledger, spread)
    answers = zip(cases, asker.ask(original, cases), asker.ask(export, cases), strict=True)
    # What neither template renders is no answer of either.
    compared = [
        (case, said.text, says.text)
        for case, said, says in answers
        if not said.finish == says.finish == "error"
    ]
    tokenizer, scores = original.tokenizer(), []
    spoken = [(case.messages, said) for case, said, _ in compared if said]
    if spoken and export.tokenizer().get_vocab() == tokenizer.get_vocab():
        scores = score_tokens(export.load(), original.load(), answer_rows(tokenizer, spoken))
    found = Exported(
        same=[said == says for _, said, says in compared],
        prompts=[case.prompt for case, _, _ in compared],
        kls=[s.kl.mean().item() for s in scores],
    )
    stats = ParityStats(rows=len(compared), **counted(EXPORT, found))
    differing = [
        Differing(prompt=case.asked, original=said, export=says)
        for case, said, says in compared
        if said != says
    ]
    largest = max(((s.policy - s.reference).abs().max().item() for s in scores), default=None)
    Parity(**dict(stats), largest_shift=largest, differing=differing).write(out / "parity.json")
    return stats
