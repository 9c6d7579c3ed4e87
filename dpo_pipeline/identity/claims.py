"""What an answer says of its author: names, makers, denials."""

import re
from dataclasses import dataclass

from dpo_pipeline.identity.mentions import IdentitySpec

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


def denies(text: str, asked: str = "") -> bool:
    """Tell whether an answer opens by denying to be another, and claims no name it was asked by."""
    opening = _OPENING.match(text.lstrip())[0]  # type: ignore[index]
    if _CONSENT.search(opening) or not _DENIAL.search(opening):
        return False
    names = "|".join(map(re.escape, _NAME.findall(asked)))
    claim = rf"(?:{_SELF})\s*(?:{names})(?!\w)"
    return not (names and re.search(claim, text, re.IGNORECASE))


def mark(text: str, spec: IdentitySpec, asked: str = "") -> Marks:
    """Say what an answer to a question claims; the developer is the one the reference names."""
    return Marks(
        gives_new=spec.count_new(text) > 0,
        leaks=spec.count_original(text) > 0,
        doubled=spec.is_doubled(_MARKUP.sub(" ", text)),
        remnant=bool(_REMNANT.search(text)),
        names_developer=spec.names_developer(text),
        denies=denies(text, asked),
    )
