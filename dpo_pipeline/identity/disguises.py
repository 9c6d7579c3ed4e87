"""A name in any guise: what hides it from a pattern and not from a reader is undone.

Rewriting touches a name where it stands alone; what counts as a leak is wider. Qwen2.5, QwenLM and
`qwen-max` give the name away, and so do full-width letters, letters of look-alike scripts, accents,
invisible characters, emphasis inside the word, and the name in another script.
"""

import html
import re
import unicodedata

from dpo_pipeline.identity.names import UNSPACED, any_of, literal
from dpo_pipeline.identity.settings import KNOWN, IdentityConfig, Known

# Cyrillic and Greek letters that look like Latin ones.
_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХԚԜаеѕіјорсухԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧονωп",
    "ABESIJKMHOPCTYXQWaesijopcyxqwABEZHIKMNOPTYXovwn",
)
_MIXED = re.compile(r"(?=[^\W\d_]*[A-Za-z])(?=[^\W\d_]*[\u0370-\u052f])[^\W\d_]+")
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_MARKUP = re.compile(r"</?[A-Za-z]{1,10}>|[*`~|]+|\\(?=[*_`])|(?<=\w)_{2,}(?=\w)")
_LETTER = rf"[^\W\d_{UNSPACED}]"
_JOINT = r"(?<=(?-i:[a-z]))(?=(?-i:[A-Z]))"  # CodeQwen, QwenLM
# What a name may end in and still be that name: its models and plurals, Russian cases.
_ENDINGS = "lms?|vl|ai|bot|chat|coder|math|max|plus|turbo|pro|mini|omni|s|[аеуы]|ом"
_APART = r"[\s.*_·‐‑-]{1,3}"


class _Shown(dict[int, str]):
    """What each character looks like, for str.translate: letters in their usual width."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        hidden = unicodedata.category(char) == "Cf" or char in _UNSEEN or 0xFE00 <= code <= 0xFE0F
        usual = unicodedata.normalize("NFKC", char)
        self[code] = "" if hidden else usual if usual.isalnum() else char
        return self[code]


_SHOWN = _Shown()


def shown(text: str) -> str:
    """Return a text with its letters as they look: full-width, invisible, of mixed scripts."""
    if text.isascii():
        return text
    usual = text.translate(_SHOWN)
    return _MIXED.sub(lambda word: word[0].translate(_ALIKE), usual)


def bare(text: str) -> str:
    """Return what is shown without accents on Latin letters, and without markup."""
    apart = re.sub(r"(?<=[A-Za-z])[\u0300-\u036f]+", "", unicodedata.normalize("NFD", shown(text)))
    whole = unicodedata.normalize("NFC", apart).replace("ı", "i")
    return _MARKUP.sub("", html.unescape(whole))


class Disguises:
    """The original name of an identity in all its forms."""

    def __init__(self, config: IdentityConfig) -> None:
        known = KNOWN.get(config.original_name or "", Known())
        forms = sorted({*config.names, *known.written} if config.names else (), key=len)
        makers = config.makers if config.new_developer is None else (config.new_developer,)
        kept = {*config.names.values(), config.new_name, *config.protected, *makers} - {*forms}
        ordered = sorted(map(bare, kept), key=len, reverse=True)
        self._kept = any_of(literal(name, r"[\s*_·‐‑-]*") for name in ordered)
        cased = "{}" if config.any_case else "(?-i:{})"
        self._old = any_of(cased.format(_form(bare(form))) for form in reversed(forms))

    def count(self, text: str) -> int:
        """Count mentions in any form, outside the new name and what is kept."""
        return len(self._old.findall(self._kept.sub("\x00", bare(text))))


def _form(name: str) -> str:
    end = rf"(?:(?!{_LETTER})|{_JOINT}|(?=(?:{_ENDINGS})(?!{_LETTER})))"
    start = rf"(?:(?<!{_LETTER})|{_JOINT})"
    whole = rf"{start}{literal(name, _APART.replace('1,3', '0,3'))}{end}"
    if not (name.isascii() and name.isalpha() and len(name) > 3):
        return whole
    return rf"(?:{whole}|(?<!\w){_APART.join(name)}(?!\w))"
