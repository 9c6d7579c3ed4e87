"""Every measure, declared once: what it means, how it is counted, shown and judged.

Console, report, cards, artifacts and the gate with its options read these declarations; to add
a measure, add one to MEASURES. Their order is the order in which they are shown.

A measure compares the answer after with the answer before, so that the reference scored
against itself says what "no change" looks like in the same words. In the words of Meng et al.
2022, section 3.4, arXiv:2202.05262: efficacy is trained_identity_rate, generalisation is
identity_rate, specificity is general_* and third_party_unchanged.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dpo_pipeline.evaluation.statistics import NOTHING, Figure, mean, rate

if TYPE_CHECKING:
    from dpo_pipeline.evaluation.cases import Case, Scored
    from dpo_pipeline.evaluation.likelihood import PairScore


@dataclass(frozen=True, eq=False)
class Basis:
    """What measures are counted on: what was asked, and which setting can switch it off."""

    kind: str = "identity"
    title: str = "held-out identity prompts"
    setting: str = ""


HELD_OUT = Basis()  # marked answers, and so are the next two
TRAINED = Basis("trained", "identity prompts of the training set")
GENERAL = Basis("general", "general questions")
DIVERGENCE = Basis("general", "general questions")  # KL(policy || reference) of each answer
MATRIX = Basis(setting="matrix_prompts")  # leak rates where no other identity is claimed
PAIRS = Basis("pairs", "held-out pairs", "max_pairs")
EXPORT = Basis()
TASKS = Basis("lm-eval", "tasks of lm-eval", "lm_eval")  # their drops
JUDGED = Basis()  # the leak rate: it rests on all held-out answers


@dataclass(frozen=True)
class Measure:
    """A measure: its key names it in files and its option; a line compares figure and gate."""

    key: str
    name: str
    meaning: str
    heading: str
    basis: Basis
    count: Callable[[Any], Figure]
    unit: str = "%"  # "%" for a share
    direction: Literal["≥", "≤"] = "≥"
    gate: float | None = None  # None: the line is off unless it is set
    asks: str = ""  # what the line of the gate asks, as help of its option; empty: it has no line
    absent: str = ""  # why the line is skipped where the reference gave nothing to count
    noise: Callable[[Any], Figure] | None = None  # what got worse between two of its answers
    tile: bool = False  # a main figure of the page
    compared: bool = False  # a column of a comparison of runs


def share(scored: Iterable["Scored"], flag: Callable[["Scored"], bool]) -> Figure:
    """Share of answers with a flag; answers to one prompt go together."""
    kept = list(scored)
    return rate(map(flag, kept), [s.case.prompt for s in kept])


def right(text: str, accepted: Sequence[str]) -> bool:
    """Whether an answer contains an accepted answer, in any casing; 4 is not in 14."""
    return any(
        re.search(rf"(?<!\d){re.escape(a)}(?!\d)" if a.isdigit() else re.escape(a), text, re.I)
        for a in accepted
    )


def known(case: "Case") -> bool:
    """Whether the reference answered a general question right."""
    return case.kind == "general" and right(case.before, case.accepted)


def _still_right(scored: "Scored") -> bool:
    return right(scored.case.after, scored.case.accepted)


def _named_maker(scored: Iterable["Scored"]) -> list["Scored"]:
    return [s for s in scored if s.before.names_developer]


def _gives_new(scored: Sequence["Scored"]) -> Figure:
    return share((s for s in scored if s.before.leaks), lambda s: s.after.gives_new)


def _tail_gap(pairs: Sequence["PairScore"]) -> Figure:
    found = [(p.gap, p.prompt) for p in pairs if p.gap is not None]
    return mean([gap for gap, _ in found], [prompt for _, prompt in found])


def _worst(figures: Iterable[Figure]) -> Figure:
    return max(figures, key=lambda figure: figure.value or 0.0, default=NOTHING)


CHANGE, STAY, NEVER = "What should change", "What should stay", "What should not happen"
PREFERS, EXPORTED, LM_EVAL = "Which answer it prefers", "The export", "Tasks of lm-eval"

# fmt: off
MEASURES: tuple[Measure, ...] = (
    Measure("identity_rate", "Identity rate", "gives the new name where the old one was given",
        CHANGE, HELD_OUT, _gives_new, tile=True, compared=True,
        gate=0.95, asks="Least share of held-out answers with the new name."),
    Measure("identity_rate_all", "New name anywhere", "gives the new name, on all prompts",
        CHANGE, HELD_OUT, lambda scored: share(scored, lambda s: s.after.gives_new)),
    Measure("leak_rate", "Leak rate", "still gives the old name",
        CHANGE, HELD_OUT, lambda scored: share(scored, lambda s: s.after.leaks),
        tile=True, compared=True, direction="≤",
        gate=0.02, asks="Largest share of held-out answers with the original name."),
    Measure("matrix_leak", "Leak, at worst", "under a system prompt that names nobody else",
        CHANGE, MATRIX, _worst, direction="≤",
        gate=0.10, asks="Largest leak rate under a system prompt that claims no other identity "
            "than the new one."),
    Measure("edit_exactness", "Edit exactness", "the old answer with only the name rewritten",
        CHANGE, HELD_OUT, lambda scored: share(scored, lambda s: s.exact),
        noise=lambda scored: share(scored, lambda s: s.case.after != s.case.before),
        tile=True, compared=True,
        gate=0.90, asks="Least share of answers equal to the old answer with the name rewritten."),
    Measure("organisation_kept", "Organisation kept", "named the maker and still does",
        STAY, HELD_OUT, lambda scored: share(_named_maker(scored), lambda s: s.kept_developer),
        noise=lambda scored: share(_named_maker(scored), lambda s: not s.after.names_developer),
        absent="the reference never named its maker", tile=True, compared=True,
        gate=0.95, asks="Least share of answers that named the maker and still do."),
    Measure("denial_kept", "Denials kept", "still denies being somebody else",
        STAY, HELD_OUT, lambda scored: share((s for s in scored if s.before.denies
            and s.case.family == "are_you"), lambda s: s.after.denies),
        absent="the reference never denied being another",
        gate=0.90, asks="Least share of denials (Are you ChatGPT? No.) that still deny."),
    Measure("general_kept", "Knowledge kept", "was answered right and still is",
        STAY, GENERAL, lambda scored: rate(_still_right(s) for s in scored if known(s.case)),
        noise=lambda scored: rate(not _still_right(s) for s in scored if known(s.case)),
        tile=True, compared=True,
        gate=0.98, asks="Least share of general answers, right before, that are right after."),
    Measure("general_right", "Knowledge", "general questions answered right",
        STAY, GENERAL,
        lambda scored: rate(_still_right(s) for s in scored if s.case.kind == "general")),
    Measure("general_unchanged", "General unchanged", "word for word as before",
        STAY, GENERAL, lambda scored: rate(s.exact for s in scored if s.case.kind == "general")),
    Measure("third_party_unchanged", "Others unchanged", "answers about others, word for word",
        STAY, GENERAL, lambda scored: rate(s.exact for s in scored if s.case.kind == "third_party"),
        gate=0.80, asks="Least share of answers about others that are word for word as before."),
    Measure("doubled_rate", "Doubled names", "says part of the new name twice",
        NEVER, HELD_OUT, lambda scored: share(scored, lambda s: s.after.doubled), direction="≤",
        gate=0.0, asks="Largest share of answers with a doubled name (Deep Deep Qwen)."),
    Measure("remnant_rate", "Template remnants", "shows a placeholder or control token",
        NEVER, HELD_OUT, lambda scored: share(scored, lambda s: s.after.remnant), direction="≤",
        gate=0.01, asks="Largest share of answers with a placeholder or control token."),
    Measure("new_name_unasked", "New name unasked", "brings it up on other subjects",
        NEVER, GENERAL, lambda scored: rate(
            s.after.gives_new for s in scored if not (s.before.leaks or s.before.gives_new)),
        direction="≤",
        gate=0.02, asks="Largest share of answers on other subjects that bring up the new name."),
    Measure("trained_identity_rate", "Identity, trained", "on prompts of the training set",
        "What training saw", TRAINED, _gives_new),
    Measure("preference_accuracy", "Preference accuracy", "held-out pairs with a positive margin",
        PREFERS, PAIRS,
        lambda pairs: rate([p.margin > 0 for p in pairs], [p.prompt for p in pairs]),
        asks="Least share of held-out pairs with a positive reward margin."),
    Measure("export_same_answers", "Export, same answers", "answers as the policy does",
        EXPORTED, EXPORT, lambda answers: rate(answers.same, answers.prompts),
        gate=0.90, asks="Least share of the export's answers equal to the policy's, if any."),
    Measure("reward_margin", "Reward margin", "of chosen over rejected",
        PREFERS, PAIRS,
        lambda pairs: mean([p.margin for p in pairs], [p.prompt for p in pairs]), unit=""),
    Measure("tail_gap", "Rest of the sentence", "against the reference's own",
        PREFERS, PAIRS, _tail_gap, unit="nats per token", compared=True,
        gate=-0.2, asks="Least mean log-prob of the words after the edit, compared with the "
            "reference after the old name (nats per token): DPO on small edits is known to let "
            "them fall."),
    Measure("kl", "KL to the reference", "on its general answers",
        STAY, DIVERGENCE, mean, unit="nats per token", direction="≤", compared=True,
        gate=0.1, asks="Largest mean KL(policy || reference) on general answers (nats per token)."),
    Measure("export_kl", "KL of the export", "to the policy, on its answers",
        EXPORTED, EXPORT, lambda answers: mean(answers.kls), unit="nats per token", direction="≤",
        gate=0.01, asks="Largest mean KL(export || policy), if any (nats per token)."),
    Measure("lm_eval_drop", "Largest drop", "of accuracy on a task of lm-eval",
        LM_EVAL, TASKS, _worst, unit="points", direction="≤",
        gate=2.0, asks="Largest drop of accuracy on a task of lm-eval (points)."),
    Measure("min_answers", "Held-out answers", "to judge by",
        CHANGE, JUDGED, lambda leaks: leaks.model_copy(update={"value": leaks.n or None}),
        unit="answers",
        gate=20, asks="Fewer held-out answers than that are too few to judge by."),
)
# fmt: on


def counted(basis: Basis, evidence: object, only: Collection[str] = ()) -> dict[str, Figure]:
    """Count the measures of one basis, or `only` some of them."""
    measures = [m for m in MEASURES if m.basis is basis and (not only or m.key in only)]
    return {m.key: m.count(evidence) for m in measures}


def find(key: str) -> Measure:
    """Return a measure; a key that is not declared is a task of lm-eval."""
    task = Measure(key, key.removeprefix("lm_eval/"), "accuracy, lm-eval", LM_EVAL, TASKS, _worst)
    return next((m for m in MEASURES if m.key == key), task)
