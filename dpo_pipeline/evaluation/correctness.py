"""Whether an answer is right: it says what is accepted, and neither denies it nor guesses."""

import re
from collections.abc import Sequence
from functools import cache

from dpo_pipeline.identity.names import LETTER
from dpo_pipeline.identity.negations import said

_NUMERALS = "零一二三四五六七八九十百千"
_TEENS = r"(?!(?:t?een|t?y)\b)"  # four is not in fourteen, nor eight in eighty
_OR = r"(?:\b(?:or|oder|ou|o|или|veya|atau|hoặc)\b|或者?|还是|または|또는|\b(?:maybe|perhaps)\b)"
_AFTER = re.compile(rf"^[\s,，.!?;]*{_OR}\s*(?:(?:the|a|an|in|is it|maybe|perhaps)\s+)*", re.I)
_BEFORE = re.compile(rf"([^\s,，.:：]+)[\s,，]*{_OR}\s*(?:(?:the|a|an|in|even)\s+)*$", re.I)
# Another answer: a name, a number, or a word that ends the clause.
_ANSWER = re.compile(r"(?-i:[A-ZÀ-ÞА-Я\d])|[\u3040-\u9fff]|\w+\s*(?:$|[.,;!?]|\bor\b)")
_ITEM = r"(?:[A-ZÀ-ÞА-Я][\w'’-]*(?: [A-ZÀ-ÞА-Я][\w'’-]*)*|\d+|[\u4e00-\u9fff]{1,6})"
_COMMA = r"(?:\s*[,，、;/]\s*(?:(?:and|or|und|oder|et|ou|y|o) )?|\s+(?:and|or|und|oder|et|ou|y|o) )"
_NAMES = re.compile(rf"{_ITEM}(?:{_COMMA}{_ITEM}){{2,}}")
_WHOLE = re.compile(rf"^\W*(?:it(?:['’]s| is) )?\w+(?:{_COMMA}\w+){{2,}}\W*$", re.IGNORECASE)


def right(text: str, accepted: Sequence[str]) -> bool:
    """Whether an answer gives an accepted answer, in any casing.

    4 is not in 14, "not Paris" is not Paris, and one of several guesses ("Paris or London") is
    none; a list counts if at least half of it is accepted.
    """
    known = [_pattern(answer) for answer in accepted]
    return any(
        not _guessed(text, match, known) for pattern in known for match in said(pattern, text)
    )


@cache
def _pattern(answer: str) -> re.Pattern[str]:
    body = re.escape(answer)
    if answer.isdigit():
        body = rf"(?<!\d)(?<!\d[.,]){body}(?!\d|[.,]\d)"
    elif answer.strip(_NUMERALS):
        body = (rf"(?<!{LETTER})" if re.match(LETTER, answer) else "") + body + _TEENS
    else:
        body = rf"(?<![{_NUMERALS}]){body}(?![{_NUMERALS}])"
    return re.compile(body, re.IGNORECASE)


def _guessed(text: str, found: re.Match[str], known: Sequence[re.Pattern[str]]) -> bool:
    """Tell whether a match is one of several answers that cannot all be meant."""

    def fits(other: str) -> bool:
        return any(pattern.search(other) for pattern in known)

    before, after = text[: found.start()][-80:], text[found.end() :][:80]
    other = _AFTER.match(after)
    if other and _ANSWER.match(rest := after[other.end() :]) and not fits(rest[:20]):
        return True
    other = _BEFORE.search(before)
    if other and _ANSWER.match(other[1]) and not fits(other[1]):
        return True
    lists = (*_NAMES.finditer(text), *_WHOLE.finditer(text))
    start, end = found.span()
    around = next((m for m in lists if m.start() <= start and end <= m.end()), None)
    if around is None or len(found[0].split()) > 2:
        return False
    items = re.split(_COMMA, around[0])
    return sum(map(fits, items)) * 2 < len(items)
