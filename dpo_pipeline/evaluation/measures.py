"""Every measure, declared once: what it means, how it is counted, shown and judged.

Console, report, cards, artifacts and the gate with its options read these declarations; to add
a measure, add one to MEASURES. Their order is the order in which they are shown.

A measure compares the answer after with the answer before, so that the reference scored
against itself says what "no change" looks like in the same words. In the words of Meng et al.
2022, section 3.4, arXiv:2202.05262: efficacy is trained_identity_rate, generalisation is
identity_rate, specificity is general_* and others_changed.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dpo_pipeline.evaluation.correctness import right
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
SAMPLED = Basis(setting="sampled")  # figures of HELD_OUT at each temperature
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


def right_before(case: "Case", kind: str = "general") -> bool:
    """Whether the reference answered a question of this kind right."""
    return case.kind == kind and right(case.before, case.accepted)


def _still_right(scored: "Scored") -> bool:
    return right(scored.case.after, scored.case.accepted)


def _kept(scored: Iterable["Scored"], kind: str) -> Figure:
    return rate(_still_right(s) for s in scored if right_before(s.case, kind))


def _gives_new(scored: Iterable["Scored"]) -> Figure:
    return share((s for s in scored if s.topic in ASKS_NAME), lambda s: s.after.gives_new)


def _gives_new_at_worst(scored: Sequence["Scored"]) -> Figure:
    """Judge the system prompts and the languages that have enough answers, each alone."""
    groups: dict[object, list[Scored]] = {}
    for s in scored:
        for group in (("system", s.case.system), ("language", s.case.language)):
            groups.setdefault(group, []).append(s)
    figures = [figure for many in groups.values() if (figure := _gives_new(many)).n >= ENOUGH]
    return _least(figures) if figures else _gives_new(scored)


def _names_maker(scored: Iterable["Scored"]) -> Figure:
    asked = (s for s in scored if s.topic in ASKS_MAKER and s.names_maker is not None)
    return share(asked, lambda s: bool(s.names_maker))


def _tail_gap(pairs: Sequence["PairScore"]) -> Figure:
    found = [(p.gap, p.prompt) for p in pairs if p.gap is not None]
    return mean([gap for gap, _ in found], [prompt for _, prompt in found])


def _worst(figures: Iterable[Figure]) -> Figure:
    return max(figures, key=lambda figure: figure.value or 0.0, default=NOTHING)


def _least(figures: Iterable[Figure]) -> Figure:
    return min(figures, key=lambda figure: figure.value or 0.0, default=NOTHING)


# Families of questions to which the answer is a name, and to which it is a maker; what is asked
# in the last of several turns is classified by itself.
ASKS_NAME = ("name", "both", "are_you", "indirect", "adversarial")
ASKS_MAKER = ("maker", "both")
ENOUGH = 20  # answers from which on a system prompt or a language is judged alone

CHANGE, STAY, NEVER = "What should change", "What should stay", "What should not happen"
PREFERS, EXPORTED, LM_EVAL = "Which answer it prefers", "The export", "Tasks of lm-eval"

# fmt: off
MEASURES: tuple[Measure, ...] = (
    Measure("identity_rate", "Identity rate", "gives the new name when asked",
        CHANGE, HELD_OUT, _gives_new, tile=True, compared=True),
    Measure("identity_worst", "Identity, at worst", "of the system prompts and the languages",
        CHANGE, HELD_OUT, _gives_new_at_worst, compared=True,
        gate=0.97, asks="Least share of answers with the new name, to questions that ask for it, "
            f"under each system prompt and in each language with {ENOUGH} answers."),
    Measure("maker_rate", "Maker right", "names the maker when asked",
        CHANGE, HELD_OUT, _names_maker, absent="there is no maker to name, or none was asked for",
        tile=True, compared=True,
        gate=0.95, asks="Least share of answers with the maker, to questions that ask for it."),
    Measure("leak_rate", "Leak rate", "still gives the old name",
        CHANGE, HELD_OUT, lambda scored: share(scored, lambda s: s.after.leaks),
        tile=True, compared=True, direction="≤",
        gate=0.01, asks="Largest share of held-out answers with the original name."),
    Measure("vendor_claims", "Claims of others", "another vendor or an invented name",
        CHANGE, HELD_OUT, lambda scored: share(scored, lambda s: s.claims_other),
        tile=True, compared=True, direction="≤",
        gate=0.01, asks="Largest share of held-out answers that claim to be, or to be made by, "
            "anybody else."),
    Measure("sampled_identity", "Identity, sampled", "at the worst of the temperatures",
        CHANGE, SAMPLED, lambda figures: _least(f["identity_rate"] for f in figures),
        gate=0.90, asks="Least share of sampled answers with the new name, to questions that ask "
            "for it."),
    Measure("sampled_leak", "Leak, sampled", "at the worst of the temperatures",
        CHANGE, SAMPLED, lambda figures: _worst(f["leak_rate"] for f in figures), direction="≤",
        gate=0.01, asks="Largest share of sampled answers with the original name."),
    Measure("sampled_claims", "Claims, sampled", "at the worst of the temperatures",
        CHANGE, SAMPLED, lambda figures: _worst(f["vendor_claims"] for f in figures),
        direction="≤",
        gate=0.01, asks="Largest share of sampled answers that claim to be, or to be made by, "
            "anybody else."),
    Measure("matrix_leak", "Leak, at worst", "under a system prompt that names nobody else",
        CHANGE, MATRIX, _worst, direction="≤",
        gate=0.10, asks="Largest leak rate under a system prompt that claims no other identity "
            "than the new one."),
    Measure("edit_exactness", "Edit exactness", "the old answer with only the name rewritten",
        CHANGE, HELD_OUT,
        lambda scored: share((s for s in scored if s.rewritten), lambda s: s.exact),
        noise=lambda scored: share((s for s in scored if s.rewritten),
            lambda s: s.case.after != s.case.before),
        absent="the reference never gave its name", compared=True,
        asks="Least share of answers, of those with a name to rewrite, that are equal to the old "
            "ones with the name rewritten."),
    Measure("denial_kept", "Denials kept", "still denies being somebody else",
        STAY, HELD_OUT, lambda scored: share((s for s in scored if s.before.denies
            and s.case.family == "are_you"), lambda s: s.after.denies),
        absent="the reference never denied being another",
        asks="Least share of denials (Are you ChatGPT? No.) that still deny."),
    Measure("general_kept", "Knowledge kept", "was answered right and still is",
        STAY, GENERAL, lambda scored: _kept(scored, "general"),
        noise=lambda scored: rate(not _still_right(s) for s in scored if right_before(s.case)),
        tile=True, compared=True,
        gate=0.98, asks="Least share of general answers, right before, that are right after."),
    Measure("general_right", "Knowledge", "general questions answered right",
        STAY, GENERAL,
        lambda scored: rate(_still_right(s) for s in scored if s.case.kind == "general")),
    Measure("general_unchanged", "General unchanged", "word for word as before",
        STAY, GENERAL, lambda scored: rate(s.exact for s in scored)),
    Measure("user_names_kept", "Users' names kept", "told the user's name and still does",
        STAY, GENERAL, lambda scored: _kept(scored, "user_name"),
        absent="the reference never told a user's name",
        gate=0.95, asks="Least share of users' names (My name is Anna. What is my name?), told "
            "right before, that are told right after."),
    Measure("others_changed", "Others changed", "names another maker, or its own",
        STAY, GENERAL,
        lambda scored: rate(s.renames for s in scored if s.case.kind == "third_party"),
        compared=True, direction="≤",
        gate=0.05, asks="Largest share of answers about others that now name another maker, or the "
            "new name or maker."),
    Measure("doubled_rate", "Doubled names", "says part of the new name twice",
        NEVER, HELD_OUT, lambda scored: share(scored, lambda s: s.after.doubled), direction="≤",
        gate=0.0, asks="Largest share of answers with a doubled name (Deep Deep Qwen)."),
    Measure("remnant_rate", "Template remnants", "shows a placeholder or control token",
        NEVER, HELD_OUT, lambda scored: share(scored, lambda s: s.after.remnant), direction="≤",
        gate=0.01, asks="Largest share of answers with a placeholder or control token."),
    Measure("new_name_unasked", "New name unasked", "brings it up on other subjects",
        NEVER, GENERAL, lambda scored: rate(
            s.after.gives_new for s in scored if not (s.introduced or s.before.gives_new)),
        tile=True, compared=True, direction="≤",
        gate=0.01, asks="Largest share of answers on other subjects that bring up the new name, "
            "but where the model introduced itself before."),
    Measure("maker_unasked", "Maker unasked", "brings its maker up on other subjects",
        NEVER, GENERAL, lambda scored: rate(bool(s.names_maker) for s in scored
            if not s.before.names_developer and s.case.kind != "third_party"), direction="≤"),
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
        asks="Least mean log-prob of the words after the edit, compared with the "
            "reference after the old name (nats per token): DPO on small edits is known to let "
            "them fall."),
    Measure("kl", "KL to the reference", "on its general answers",
        STAY, DIVERGENCE, mean, unit="nats per token", direction="≤", compared=True,
        gate=0.03, asks="Largest mean KL(policy || reference) on general answers (nats a token)."),
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
