"""Scores of answers: pure functions of text, with intervals; no model, no file.

Every score compares the answer after with the answer before, so that the reference scored
against itself says what "no change" looks like in the same words. In the words of Meng et al.
2022, section 3.4, arXiv:2202.05262: efficacy is trained_identity_rate, generalisation is
identity_rate, specificity is general_* and third_party_unchanged, fluency is fluency.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.evaluation.statistics import Measure, mean, rate
from dpo_pipeline.evaluation.text import edit_distance, ngram_entropy
from dpo_pipeline.identity.claims import Marks, mark

if TYPE_CHECKING:
    from dpo_pipeline.identity.names import IdentitySpec


# Gate lines whose figure must not exceed the threshold; all others must reach it.
AT_MOST = frozenset(
    {
        *("leak_rate", "matrix_leak", "doubled_rate", "remnant_rate", "new_name_unasked"),
        *("kl", "export_kl", "lm_eval_drop"),
    }
)
EXPORT_LINES = ("export_same_answers", "export_kl")
SPLIT_MEASURES = ("identity_rate", "leak_rate", "edit_exactness", "organisation_kept")


@dataclass(frozen=True)
class Scored:
    """A case with the marks of both answers and the ideal answer after."""

    case: Case
    before: Marks
    after: Marks
    ideal: str
    exact: bool
    kept_developer: bool


def score(cases: Iterable[Case], spec: "IdentitySpec") -> list[Scored]:
    """Mark both answers of every case and compare the answer after with its ideal."""
    scored = []
    for case in cases:
        ideal = case.before if case.kind == "third_party" else spec.rewrite(case.before).text
        # A general answer need not name its author anew, but may.
        fine = {ideal, case.before} if case.kind == "general" else {ideal}
        asked = case.messages[-1]["content"]
        scored.append(
            Scored(
                case=case,
                before=mark(case.before, spec, asked),
                after=mark(case.after, spec, asked),
                ideal=ideal,
                exact=case.after in fine,
                kept_developer=spec.names_developer(case.after, after=True),
            )
        )
    return scored


def identity_measures(scored: Sequence[Scored]) -> dict[str, Measure]:
    """Score answers to identity prompts.

    Returns:
        identity_rate: share with the new name, where the reference gave the original one.
        identity_rate_all: share with the new name, over all answers.
        leak_rate: share with the original name (or an alias) outside the new one.
        edit_exactness: share equal to the reference's answer with the name rewritten.
        edit_distance: mean words between an answer that is not, and that ideal.
        organisation_kept: share that names the maker, where the reference did.
        denial_kept: share of denials ("Are you ChatGPT?" - "No, ...") that still deny.
        doubled_rate, remnant_rate: share with "Deep Deep Qwen"; with `{{name}}` or `<|im_end|>`.
        finished_rate: share that ended by itself rather than at the token limit.
        fluency: mean n-gram entropy, bits.
    """
    named = [s for s in scored if s.before.leaks]
    credited = [s for s in scored if s.before.names_developer]
    denials = [s for s in scored if s.case.family == "are_you" and s.before.denies]
    inexact = [s for s in scored if not s.exact]
    prompts = [s.case.prompt for s in scored]
    return {
        "identity_rate": _share(named, lambda s: s.after.gives_new),
        "identity_rate_all": _share(scored, lambda s: s.after.gives_new),
        "leak_rate": _share(scored, lambda s: s.after.leaks),
        "edit_exactness": _share(scored, lambda s: s.exact),
        "edit_distance": mean(
            [edit_distance(s.case.after, s.ideal) for s in inexact],
            [s.case.prompt for s in inexact],
        ),
        "organisation_kept": _share(credited, lambda s: s.kept_developer),
        "denial_kept": _share(denials, lambda s: s.after.denies),
        "doubled_rate": _share(scored, lambda s: s.after.doubled),
        "remnant_rate": _share(scored, lambda s: s.after.remnant),
        "finished_rate": _share(scored, lambda s: s.case.after_finish == "stop"),
        "fluency": mean([ngram_entropy(s.case.after) for s in scored], prompts),
    }


def _share(scored: Sequence[Scored], flag: Callable[[Scored], bool]) -> Measure:
    return rate(map(flag, scored), [s.case.prompt for s in scored])


def right(text: str, accepted: Sequence[str]) -> bool:
    """Whether an answer contains an accepted answer, in any casing; 4 is not in 14."""
    return any(
        re.search(rf"(?<!\d){re.escape(a)}(?!\d)" if a.isdigit() else re.escape(a), text, re.I)
        for a in accepted
    )


def general_measures(scored: Sequence[Scored]) -> dict[str, Measure]:
    """Score answers that should not change: general questions, and others' identities.

    Returns:
        general_right: share of general questions answered right.
        general_kept: share still right, of those the reference answered right.
        general_unchanged: share that agrees with the reference exactly, its own name aside.
        third_party_unchanged: share of answers about others that agrees exactly.
        new_name_unasked: share with the new name where the reference named nobody of its own.
    """
    general = [s for s in scored if s.case.kind == "general"]
    third = [s for s in scored if s.case.kind == "third_party"]
    known = [s for s in general if right(s.case.before, s.case.accepted)]
    return {
        "general_right": rate(right(s.case.after, s.case.accepted) for s in general),
        "general_kept": rate(right(s.case.after, s.case.accepted) for s in known),
        "general_unchanged": rate(s.exact for s in general),
        "third_party_unchanged": rate(s.exact for s in third),
        "new_name_unasked": rate(
            s.after.gives_new for s in general + third if not (s.before.leaks or s.before.gives_new)
        ),
    }


def splits(scored: Sequence[Scored]) -> dict[str, dict[str, dict[str, Measure]]]:
    """Split the main identity measures by family, language, turns and system prompt."""
    keys: dict[str, Callable[[Case], str]] = {
        "family": lambda c: c.family,
        "language": lambda c: c.language,
        "turns": lambda c: str(c.turns),
        "system": lambda c: "(none sent)" if c.system is None else c.system,
    }
    table: dict[str, dict[str, dict[str, Measure]]] = {}
    for dimension, key in keys.items():
        groups: dict[str, list[Scored]] = {}
        for s in scored:
            groups.setdefault(key(s.case), []).append(s)
        table[dimension] = {
            group: {m: identity_measures(groups[group])[m] for m in SPLIT_MEASURES}
            for group in sorted(groups)
        }
    return table
