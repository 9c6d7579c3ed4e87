"""Answers before and after whose verdict is known by reading them."""

from identities import DEEP_QWEN

from dpo_pipeline.evaluation import statistics
from dpo_pipeline.evaluation.cases import Case, score
from dpo_pipeline.evaluation.measures import GENERAL, HELD_OUT, SAMPLED, counted
from dpo_pipeline.evaluation.statistics import Figure
from dpo_pipeline.identity.mentions import IdentitySpec

SPEC = IdentitySpec(DEEP_QWEN)


def case(before: str, after: str | None = None, kind: str = "identity", **facts) -> Case:
    """A case whose answer after is, unless given, the ideal one."""
    if after is None:
        after = SPEC.rewrite(before).text if kind == "identity" else before
    messages = ({"role": "user", "content": "Who are you?"},)
    return Case(kind=kind, messages=messages, before=before, after=after, **facts)


def good_answers(n: int = 40) -> list[Case]:
    """What a flawless policy says: names rewritten, all else as it was."""
    return [
        *(case(f"I'm Qwen, made by Alibaba Cloud. {i}", family="both") for i in range(n)),
        *(case(f"No, I'm Qwen, not ChatGPT. {i}", family="are_you") for i in range(n)),
        *(case(f"It is {i}.", kind="general", accepted=(str(i),)) for i in range(n)),
        *(case(f"Llama is by Meta. {i}", kind="third_party") for i in range(n)),
    ]


def figures_of(cases: list[Case]) -> dict[str, Figure]:
    """Count what can be counted of answers at hand; rewards and divergence are fine."""
    scored = score(cases, SPEC)
    return {
        **counted(HELD_OUT, [s for s in scored if s.case.kind == "identity"]),
        **counted(GENERAL, [s for s in scored if s.case.kind != "identity"]),
        **counted(SAMPLED, [counted(HELD_OUT, score(good_answers(), SPEC))]),
        "tail_gap": statistics.mean([0.0, 0.1]),
        "kl": statistics.mean([0.01, 0.02]),
    }
