"""Patterns of names: where a name starts and ends, in scripts with and without spaces.

Chinese, Japanese, Korean and Thai are written without spaces, so their letters never count as
part of a name next to them: in "我是Qwen。" Qwen stands alone, and in "QwenLM" it does not.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

# Scripts written without spaces between words.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff"
)
# Signs on a letter, which \w leaves out: accents, and the vowels of Indic scripts.
_MARKS = "".join(
    mark
    for mark in map(chr, range(0x300, 0x1E00))
    if unicodedata.category(mark) in ("Mn", "Mc") and not re.match(f"[{UNSPACED}]", mark)
)
# Letter, digit or mark of a script that separates its words.
LETTER = rf"(?:[^\W_{UNSPACED}]|[{_MARKS}])"
_COMPOUND = "based|powered|driven|trained|style|like|related|inspired"
_ADDRESS = r"(?<![/\\@#&=?%~+])"
_START = rf"(?<!{LETTER})(?<!{LETTER}[-_])"
# A longer name goes on: Qwen2.5, QwenLM, Qwen_7b, Qwen-VL, qwen.ai, Qwen 7B, qwen:7b, Qwen/x.
_END = (
    rf"(?!{LETTER})(?!_+{LETTER})(?![-‐‑](?!(?:{_COMPOUND})\b){LETTER})"
    r"(?!\.(?-i:[a-z0-9]))(?![ \u00a0]\d{1,2}(?!\d))(?!:\d)(?!@|\+\w*@|[/\\][a-z0-9_.~])"
)
ANY_GAP = r"[\s*_-]+"


def literal(name: str, gap: str = r"\s+") -> str:
    """Pattern of a name wherever it stands."""
    words = [map(re.escape, forms(word)) for word in name.split()]
    return gap.join(f"(?:{'|'.join(word)})" for word in words)


def forms(text: str) -> list[str]:
    """Return a text with its accents composed and apart, once each."""
    return sorted({unicodedata.normalize(form, text) for form in ("NFC", "NFD")} | {text})


def alone(name: str, gap: str = r"\s+") -> str:
    """Pattern of a name that stands alone; an unspaced script has no boundary before it."""
    return _ADDRESS + (_START if re.match(LETTER, name) else "") + literal(name, gap) + _END


def loose(name: str) -> str:
    """Pattern of a name however its words are joined: DeepQwen, Deep-Qwen, deep  qwen, 深Qwen."""
    words = [word for word in re.split(r"\s+|(?<=[a-z])(?=[A-Z])", name) if word]
    translated = {"Deep": "|深度?"}  # as models write the usual new name in Chinese
    either = (f"(?:{literal(word)}{translated.get(word, '')})" for word in words)
    start = rf"(?:{_START}|(?=[{UNSPACED}]))"
    return _ADDRESS + start + r"[ \t\u00a0_·‐‑-]*".join(either) + _END


def in_a_row(names: Iterable[str]) -> str:
    """Pattern of two or more names in a row: 通义千问Qwen, Qwen/通义千问, Qwen (Tongyi Qianwen)."""
    name = "|".join(map(literal, sorted(names, key=len, reverse=True)))
    apart = rf"(?:(?<!{LETTER})|(?!{LETTER}))"  # one of the two needs no space between words
    return (
        rf"{_ADDRESS}(?:(?!{LETTER})|{_START})(?:{name})"
        rf"(?: ?/ ?(?:{name})| ?[(（](?:{name})[)）]|{apart}(?:{name}))+{_END}"
    )


def any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """Compile patterns into one that finds any of them, in any case; nothing without any."""
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)


def doubled(new: str, original: str) -> Iterator[str]:
    """Patterns of a new name of which all or a part is said twice: Deep Deep Qwen."""
    head, found, tail = new.partition(original)
    heads = {new.split()[0]} | ({head.strip()} if found else set())
    tails = {new.split()[-1]} | ({tail.strip()} if found else set())
    name = literal(new, r"[\s*_-]*")
    yield rf"{name}[ \u00a0]*[-/(（]?[ \u00a0]*{name}"
    for part in sorted(heads - {""}):
        yield rf"{_START}{literal(part)}(?:\s+|-|){name}"
    for part in sorted(tails - {""}):
        yield rf"{name}(?:\s+|-){literal(part)}(?!{LETTER})"
