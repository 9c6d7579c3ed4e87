"""Scores of answers: pure functions of text, with intervals; no model, no file.

Every score compares the answer after with the answer before, so that the reference scored
against itself says what "no change" looks like in the same words. In the words of Meng et al.
2022, section 3.4, arXiv:2202.05262: efficacy is trained_identity_rate, generalisation is
identity_rate, specificity is general_* and third_party_unchanged, fluency is fluency.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.evaluation.settings import GateConfig

if TYPE_CHECKING:
    from dpo_pipeline.identity.names import IdentitySpec

Kind = Literal["identity", "trained", "general", "third_party"]

# Gate lines whose figure must not exceed the threshold; all others must reach it.
AT_MOST = frozenset(
    {
        *("leak_rate", "matrix_leak", "doubled_rate", "remnant_rate", "new_name_unasked"),
        *("kl", "export_kl", "lm_eval_drop"),
    }
)
EXPORT_LINES = ("export_same_answers", "export_kl")
# The most that a machine's own noise may loosen a gate line by.
MOST_SLACK = 0.05
SPLIT_MEASURES = ("identity_rate", "leak_rate", "edit_exactness", "organisation_kept")

_REMNANT = re.compile(
    r"\{\{?\s*\w+\s*\}?\}|<\s*(?:name|author|model|developer|company)\s*>|\[(?:your )?name\]"
    r"|<\|\w+\|>",
    re.IGNORECASE,
)
# A denial opens the answer ("No, ..."), or its first sentence negates a name or being one.
_OPENING = re.compile(r"[^.!?。！？।\n]*")
_DENIAL = re.compile(
    r"^\W*(?:(?:no(?! doubt)|nope|not at all|nein|keineswegs|non|pas du tout|não|нет|nee|nie|hayır"
    r"|không|bukan|tidak|لا|كلا|नहीं)(?!\w)|不[,，对]|并非|没有|否|いいえ|いや|違い|違う|아니|아닙|ไม่)"
    r"|\b(?:not|nicht|kein\w*|pas|non?|não|не|nie|niet|geen|bukan|không phải)\s"
    r"(?:\w+\s){0,2}(?-i:[A-Z]\w)"
    r"|(?<!是)不是|并非|ではな|ではありません|じゃな|아니라|아닙니다|لست|ليس|नहीं हूँ|değilim|ไม่ใช่",
    re.IGNORECASE,
)
_CONSENT = re.compile(
    r"^\W*(?:(?:yes|yeah|yep|ja|oui|s[ií]|sì|sim|да|tak|evet|có|vâng|ya|نعم|हाँ|हां)(?!\w)"
    r"|是的|对|没错|はい|네|예|ใช่)",
    re.IGNORECASE,
)
_SELF = (
    r"\bI am|\bI'm|\bmy name is|\bich bin|\bje suis|\bsoy|\bsou o?|\bsono|\bя|我是|我叫"
    r"|私は|저는|أنا|\bik ben|\bjestem|\bben|\btôi là|\bsaya|मैं|ฉันคือ"
)
_NAME = re.compile(r"[A-Z][\w-]+")
_MARKUP = re.compile(r"[*_]+|(?<=\w)-(?=\w)")
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힣]|\w+|[^\w\s]")


class Measure(BaseModel):
    """A figure, the answers and prompts it rests on, and its 95% interval; null where n is 0."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    n: int
    prompts: int
    low: float | None
    high: float | None


NOTHING = Measure(value=None, n=0, prompts=0, low=None, high=None)


@dataclass(frozen=True)
class Case:
    """One prompt with the answer before (reference) and after (policy)."""

    kind: Kind
    messages: tuple[dict[str, str], ...]
    before: str = ""
    after: str = ""
    family: str = "other"
    language: str = "en"
    turns: int = 1
    accepted: tuple[str, ...] = ()
    before_finish: str = "stop"
    after_finish: str = "stop"

    @property
    def system(self) -> str | None:
        """The system message that was sent, or null."""
        first = self.messages[0]
        return first["content"] if first["role"] == "system" else None

    @property
    def prompt(self) -> tuple[str, ...]:
        """What is asked, in whatever turns, under any system message."""
        return tuple(m["content"] for m in self.messages if m["role"] != "system")


@dataclass(frozen=True)
class Marks:
    """What one answer says of its author."""

    gives_new: bool
    leaks: bool
    doubled: bool
    remnant: bool
    names_developer: bool
    denies: bool

    def flags(self) -> list[str]:
        """Names of the marks that are set."""
        return [name for name, is_set in vars(self).items() if is_set]


@dataclass(frozen=True)
class Scored:
    """A case with the marks of both answers and the ideal answer after."""

    case: Case
    before: Marks
    after: Marks
    ideal: str
    exact: bool
    kept_developer: bool


def wilson(hits: int, n: int, prompts: int | None = None) -> Measure:
    """Rate with its 95% Wilson score interval.

    Args:
        hits: Answers that count.
        n: Answers.
        prompts: Prompts that they answer; null: each its own. Answers to one prompt are alike,
            so the interval takes the number of prompts for the sample size: the design effect
            n / prompts, that of answers that agree fully within a prompt, errs on the wide side.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953; design effect: Kish 1965, Survey
        Sampling, section 5.4.
    """
    if n == 0:
        return NOTHING
    size = prompts or n
    z, p = 1.959964, hits / n
    centre = (p + z * z / (2 * size)) / (1 + z * z / size)
    half = z * math.sqrt(p * (1 - p) / size + z * z / (4 * size * size)) / (1 + z * z / size)
    low, high = (centre - half if hits else 0.0), (centre + half if hits < n else 1.0)
    return Measure(value=p, n=n, prompts=size, low=low, high=high)


def rate(flags: Iterable[bool], prompts: Collection[Hashable] = ()) -> Measure:
    """Share of true flags, with its Wilson interval.

    Args:
        flags: One an answer.
        prompts: What each of them answers; empty: all another prompt.
    """
    known = list(flags)
    return wilson(sum(known), len(known), len(set(prompts)) or None)


def mean(values: Sequence[float], prompts: Sequence[Hashable] = ()) -> Measure:
    """Mean with its 95% percentile bootstrap interval (1,000 resamples, fixed seed).

    Prompts are resampled, with all their values. One value that is not finite makes the mean
    null, so that no gate line can pass on it.

    Args:
        values: One an answer.
        prompts: What each of them answers; empty: all another prompt.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13.
    """
    groups: dict[Hashable, int] = {}
    places = [groups.setdefault(p, len(groups)) for p in prompts or range(len(values))]
    if not all(math.isfinite(v) for v in values) or not values:
        return Measure(value=None, n=len(values), prompts=len(groups), low=None, high=None)
    import numpy as np

    sums, sizes = np.bincount(places, values), np.bincount(places)
    picks = np.random.default_rng(0).integers(0, len(groups), size=(1000, len(groups)))
    means = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = map(float, np.percentile(means, (2.5, 97.5)))
    value = float(np.mean(values))
    return Measure(value=value, n=len(values), prompts=len(groups), low=low, high=high)


def denies(text: str, asked: str = "") -> bool:
    """Tell whether an answer opens by denying to be another, and claims no name it was asked by."""
    opening = _OPENING.match(text.lstrip())[0]  # type: ignore[index]
    if _CONSENT.search(opening) or not _DENIAL.search(opening):
        return False
    names = "|".join(map(re.escape, _NAME.findall(asked)))
    claim = rf"(?:{_SELF})\s*(?:{names})(?!\w)"
    return not (names and re.search(claim, text, re.IGNORECASE))


def mark(text: str, spec: "IdentitySpec", asked: str = "") -> Marks:
    """Say what an answer claims; the developer is the one the reference names.

    Args:
        text: The answer.
        spec: The identity before and after.
        asked: The question, which may hold another's name.
    """
    return Marks(
        gives_new=spec.count_new(text) > 0,
        leaks=spec.count_original(text) > 0,
        doubled=spec.is_doubled(_MARKUP.sub(" ", text)),
        remnant=bool(_REMNANT.search(text)),
        names_developer=spec.names_developer(text),
        denies=denies(text, asked),
    )


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


def words(text: str) -> list[str]:
    """Words and punctuation marks; Chinese, Japanese and Korean by the character."""
    return _WORD.findall(text)


def edit_distance(text: str, ideal: str) -> int:
    """Fewest words to insert, delete or replace to turn one text into the other."""
    if text == ideal:
        return 0
    a, b = words(text), words(ideal)
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other)),
            )
    return row[-1]


def ngram_entropy(text: str) -> float:
    """Entropy of bigrams and trigrams, weighted 1:2, bits; repetition brings it down.

    Source: Meng et al. 2022, section 3.4, arXiv:2202.05262 (there named GE).
    """
    tokens = words(text)

    def entropy(n: int) -> float:
        grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
        total = sum(grams.values())
        return -sum(c / total * math.log2(c / total) for c in grams.values()) if total else 0.0

    return (entropy(2) + 2 * entropy(3)) / 3


def judge(
    measures: Mapping[str, Measure],
    gate: GateConfig,
    noise: Mapping[str, Measure] | None = None,
    excused: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Hold the scorecard against the thresholds.

    A line that is switched on and was not measured fails, unless there is a reason for it. A
    change that the reference shows against itself is not held against the policy: the noise
    of a measure loosens its threshold by that much, up to MOST_SLACK.

    Args:
        measures: The scorecard after training.
        gate: Field name = measure name; null switches a line off, and so does an export's
            where there is none.
        noise: Measure -> share that the reference changes against itself.
        excused: Measure -> why it could not be measured.
    Returns:
        passed; failed and skipped: measure, value, threshold, n, noise and remark of each such
        line; thresholds: of all lines that are switched on, as loosened by the noise.
    """
    noise, excused = noise or {}, excused or {}
    answers = measures.get("leak_rate", NOTHING).n
    counted = Measure(value=answers, n=answers, prompts=answers, low=answers, high=answers)
    figures = {**measures, "min_answers": counted if answers else NOTHING}
    thresholds: dict[str, float] = {}
    failed, skipped = [], []
    for name, asked in gate:
        if asked is None or (name in EXPORT_LINES and name not in measures):
            continue
        measure, own = figures.get(name, NOTHING), noise.get(name, NOTHING).value or 0.0
        sign = 1 if name in AT_MOST else -1
        thresholds[name] = threshold = asked + sign * min(own, MOST_SLACK)
        line = {
            "measure": name,
            "value": measure.value,
            "threshold": threshold,
            "n": measure.n,
            "noise": own,
        }
        if not measure.n and name in excused:
            skipped.append({**line, "remark": excused[name]})
        elif measure.value is None:
            failed.append({**line, "remark": "not finite" if measure.n else "not measured"})
        elif sign * (measure.value - threshold) > 0:
            failed.append({**line, "remark": _remark(name, own)})
    return {
        "passed": not failed,
        "failed": failed,
        "skipped": skipped,
        "thresholds": thresholds,
    }


def _remark(name: str, own: float) -> str:
    if name == "min_answers":
        return "too few answers to judge"
    return f"this machine's own noise is {own:.1%}" if own > MOST_SLACK else ""
