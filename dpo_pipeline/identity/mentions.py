"""What a text says of whom: what it mentions (a leak?), whom it speaks to, what it claims."""

import re
from dataclasses import dataclass

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.disguises import Disguises, shown
from dpo_pipeline.identity.names import ANY_GAP, alone, any_of, doubled, literal, loose
from dpo_pipeline.identity.negations import said
from dpo_pipeline.identity.rewriting import CODE, URL, Rewrite, Rewriter, in_case_of
from dpo_pipeline.identity.settings import AUTO, IdentityConfig
from dpo_pipeline.identity.vendors import family_of
from dpo_pipeline.store.text import CONTROL

_SECOND_PERSON = re.compile(
    r"\b(?:you|your|yours|yourself|u|ur|ya|thou|am i|is (?:this|that|it)"
    r"|this (?:is|model|assistant|ai|bot|chat)|i(?:'?m| am) (?:talking|speaking|chatting)"
    r"|pretend|role-?play|act as|repeat(?: after me)?(?=:)"
    r"|tu|te|t(?=['’])|toi|ton|ta|tes|vous|votre|vos|eres|usted|vienes|tú|du|dich|dir|dein\w*"
    r"|sie|sei|ti|tuo|tua|você|seu|ты|вы|вас|je|jij|jouw|sen|adın|bạn|kamu|anda|jesteś)\b"
    r"|^\W*name\W*$|[你您妳]|這是|这是|我(?:正|现)?在(?:和|跟|与)|重复[:：]|扮演|假装|自我介绍"
    r"|あなた|君|自己紹介|당신|너|คุณ|आप|तुम|أنت|אתה",
    re.IGNORECASE,
)
_FIRST_PERSON = re.compile(
    r"\b(?:i|me|my|mine|myself|we|us|our|je|j|moi|mon|nous|ich|mich|mein\w*|yo|soy|mi|eu|sou|meu"
    r"|io|sono|mio|я|меня|мой|ik|mijn|ben|benim|tôi|saya|aku|jestem|jag|jeg)\b"
    r"|我|私|僕|저는|나는|제|ฉัน|ผม|मैं|मेरा|أنا|اسمي|אני|είμαι",
    re.IGNORECASE,
)
# "You" in such an opening is a courtesy, or asks what is known of somebody else.
_OPENING = re.compile(
    r"\b(?:can|could|would|will) you (?:please |kindly )?"
    r"(?:tell|explain|describe|show|say|name|list|compare|summari[sz]e|introduce)\b"
    r"|\bdo you (?:happen to )?(?:know|like|use|recommend|remember)\b"
    r"|\bhave you (?:ever )?(?:heard|used|tried|met|seen)\b"
    r"|\bwhat (?:do|can) you (?:know|think|say|tell)\b"
    r"|[你您](?:能|可以|可否|能否)?(?:告诉我|知道|了解|听说过|认识|解释|介绍|说说|用过)(?!.{0,3}自己)",
    re.IGNORECASE,
)
_GREETING = r"(?:(?:hi|hello|hey|ok|okay|dear|so|你好|您好|嗨|嘿)[\s,，!！]*)?"
_REMNANT = re.compile(
    rf"{CONTROL.pattern}|<?\|?\bim_(?:start|end)\b|\[(?:PAD|UNK|CLS|SEP|MASK)\]"
    r"|\{\{?\s*\w+(?:\s*\|\s*\w+)?\s*\}?\}|\{%.{0,60}?%\}|(?m:^#+ (?:Response|Instruction):)"
    r"|<\s*(?:(?:your|model|company)[ _])?(?:name|author|model|developer|company)\s*>"
    r"|[\[【](?:[^\W\d]+[ _]){0,4}(?:name|nombre|nom|nome|naam|имя|adı|tên|nama|imię)"
    r"(?: [^\W\d]+)?[\]】]|[\[【](?:[^\W\d]+[ _]){0,4}(?:company|developer)[\]】]"
    r"|[\[【][^\[\]【】\n]{0,8}(?:名字|名称|名前|公司|开发者|이름|ชื่อ|नाम|اسم)"
    r"[^\[\]\n]{0,4}[\]】]",
    re.IGNORECASE,
)
# A denial opens the answer ("No, ..."), or its first sentence negates a name or being one.
_FIRST_SENTENCE = re.compile(r"[^.!?。！？।\n]*")
_DENIAL = re.compile(
    r"^\W*(?:(?:no(?! doubt| lo sé| sé)|nope|not at all|nein|keineswegs|non|pas du tout|não"
    r"|нет|nee|nie|hayır|không|bukan|tidak|لا|كلا|नहीं)(?!\w)|不[,，对]|并非|没有|否|いいえ|いや|違い|違う|아니|아닙|ไม่)"
    r"|(?:\b(?:not|nicht|kein\w*|pas|non?|não|не|nie|niet|geen|bukan|không phải)|n['’]t)\s"
    r"(?:\w+\s){0,2}(?-i:[A-Z]\w)"
    r"|\b(?:not my name|pas mon nom|no es mi nombre)\b|(?<!是)不是|并非"
    r"|ではな|ではありません|じゃな|아니라|아닙니다|لست|ليس|नहीं हूँ|değilim|ไม่ใช่",
    re.IGNORECASE,
)
CONSENT = re.compile(
    r"^\W*(?:(?:yes|yeah|yep|ja|oui|s[ií]|sì|sim|да|tak|evet|có|vâng|ya|نعم|हाँ|हां)(?!\w)"
    r"|是的|对|没错|はい|네|예|ใช่)",
    re.IGNORECASE,
)
_SELF = (
    r"\bI am|\bI'm|\bmy name is|\bich bin|\bje suis|\bsoy|\bsou o?|\bsono|\bя|我是|我叫"
    r"|私は|저는|أنا|\bik ben|\bjestem|\bben|\btôi là|\bsaya|मैं|ฉันคือ"
)
_NAME = re.compile(r"[A-Z][\w-]+")
_MARKUP = re.compile(r"</?[A-Za-z]{1,10}>|[*_\"“”「」]+|(?<=\w)-(?=\w)")


def addresses_model(prompt: str) -> bool:
    """Tell whether a prompt speaks to the model of itself: not "Do you know who makes Qwen?"."""
    return _SECOND_PERSON.search(_OPENING.sub(" ", prompt)) is not None


def is_personal(text: str) -> bool:
    """Tell whether somebody in a text speaks of themselves."""
    return _FIRST_PERSON.search(text) is not None


class IdentitySpec:
    """What is known about the identity before and after, compiled."""

    def __init__(self, config: IdentityConfig) -> None:
        if AUTO in (config.original_name, config.new_name):
            raise DataError("identity is left to the census: settle() fills it in")
        self.config = config
        self._rewriter = Rewriter(config)
        self.disguises = Disguises(config)
        self._mention = any_of(map(literal, config.names))
        called = rf"(?:{self._mention.pattern})\s*"
        self._vocative = re.compile(
            rf"^\s*{_GREETING}{called}[,，!！:：]|[,，]\s*{called}[?!.？！。]*\s*$", re.IGNORECASE
        )
        news = sorted({*config.names.values(), config.new_name})
        self._new = any_of(alone(new, ANY_GAP) for new in news)
        self._doubled = any_of(p for new in news for p in doubled(new, config.original_name or new))
        after = config.makers if config.new_developer is None else (config.new_developer,)
        self._makers, self._new_makers = (any_of(map(alone, m)) for m in (config.makers, after))
        self._own = {*config.names, *news, *config.makers, *after}
        self._kin = any_of(rf"(?<![a-z]){literal(n)}(?![a-z])" for n in family_of(self._own))
        written = "{}" if config.any_case else "(?-i:{})"
        odd = (f"(?P<new{i}>{written.format(loose(new))})" for i, new in enumerate(news))
        self._odd, self._news = any_of((CODE, URL, *odd)), news

    def rewrite(self, text: str) -> Rewrite:
        """Replace the original name, its aliases and, if it changes, the developer."""
        return self._rewriter.rewrite(text)

    def count_original(self, text: str) -> int:
        """Count mentions of the original name or an alias that rewriting replaces.

        Those inside the new name, a longer or protected name, code or an address do not count; they
        are leaks all the same: `disguises` counts these.
        """
        counts = self._rewriter.walk(text).counts
        return sum(n for rule, n in counts.items() if rule == "name" or rule.startswith("alias:"))

    def count_new(self, text: str) -> int:
        """Count mentions of the new name, longer names and "not" before it not included."""
        return sum(1 for _ in said(self._new, text))

    def mend(self, text: str) -> str:
        """Write the new name as it should be where it is joined or spaced oddly (DeepQwen).

        Code and addresses stay; so does a name all in lower or upper case.
        """

        def proper(match: re.Match[str]) -> str:
            kind, written = str(match.lastgroup), match.group()
            if not kind.startswith("new"):
                return written
            return in_case_of(written, self._news[int(kind[3:])])

        return self._odd.sub(proper, text)

    def is_own(self, name: str) -> bool:
        """Tell whether a claimed name, of the model or its maker, is the identity's.

        So are odd spellings, parts, and what else its makers are known by: 阿里巴巴 is
        Alibaba Cloud, and Qwen2.5 is Qwen.
        """
        words = set(name.casefold().split())
        parts = any(words <= set(own.casefold().split()) for own in self._own)
        return parts or self._kin.search(self.mend(name)) is not None

    def is_doubled(self, text: str) -> bool:
        """Tell whether the new name comes with a part of it said twice (Deep Deep Qwen)."""
        return self._doubled.search(text) is not None

    def names_developer(self, text: str, after: bool = False) -> bool:
        """Tell whether the text names the developer before, or the one after."""
        return (self._new_makers if after else self._makers).search(text) is not None

    def is_third_party(self, prompt: str) -> bool:
        """Tell whether a prompt asks about the model by name, and not about "you".

        "Who makes Qwen?" does; "Are you Qwen?", "Is this Qwen?" and "Qwen, who made this?" do not.
        """
        rest = self._vocative.sub(" ", prompt)
        return self._mention.search(rest) is not None and not addresses_model(prompt)


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
    opening = _FIRST_SENTENCE.match(text.lstrip())[0]  # type: ignore[index]
    if CONSENT.search(opening) or not _DENIAL.search(opening):
        return False
    names = "|".join(map(re.escape, _NAME.findall(asked)))
    claim = rf"(?:{_SELF})\s*(?:{names})(?!\w)"
    return not (names and re.search(claim, text, re.IGNORECASE))


def mark(text: str, spec: IdentitySpec, asked: str = "") -> Marks:
    """Say what an answer to a question claims; the developer is the one the reference names."""
    plain = shown(text)
    return Marks(
        gives_new=spec.count_new(text) > 0,
        leaks=spec.disguises.count(text) > 0,
        doubled=spec.is_doubled(_MARKUP.sub(" ", plain)),
        remnant=bool(_REMNANT.search(text)),
        names_developer=spec.names_developer(text),
        denies=denies(plain, asked),
    )
