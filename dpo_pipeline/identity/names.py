"""Names before and after: rewriting them, counting them, telling self from third party.

One compiled pattern walks the text from left to right. Whatever must stay (code, addresses,
longer names, the new name itself) is an alternative that matches and is copied; the names to
replace are alternatives with boundaries on both sides, the longest first. Chinese, Japanese,
Korean and Thai are written without spaces, so their letters never count as part of a name next
to them: "我是Qwen。" is rewritten and "QwenLM" is not. Articles are left as they are.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.settings import IdentityConfig

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
_LETTER = rf"(?:[^\W_{UNSPACED}]|[{_MARKS}])"
_COMPOUND = "based|powered|driven|trained|style|like|related|inspired"
_ADDRESS = r"(?<![/\\@#&=?%~+])"
_START = rf"(?<!{_LETTER})(?<!{_LETTER}[-_])"
# A longer name goes on: Qwen2.5, QwenLM, Qwen_7b, Qwen-VL, qwen.ai, Qwen 7B, qwen:7b, Qwen/x.
_END = (
    rf"(?!{_LETTER})(?!_+{_LETTER})(?![-‐‑](?!(?:{_COMPOUND})\b){_LETTER})"
    r"(?!\.(?-i:[a-z0-9]))(?![ \u00a0]\d{1,2}(?!\d))(?!:\d)(?!@|\+\w*@|[/\\][a-z0-9_.~])"
)
_CODE = (
    r"(?P<code>(?<!`)(?:```[\s\S]*?(?:```|\Z)|(?P<ticks>`{1,2})(?!`)[^\n]*?[^`\n](?P=ticks)(?!`)))"
)
_URL = r"(?P<url>(?:(?:https?|ftp)://|\bwww\.)[!#-&*-;=?-~]+)"
_ANY_GAP = r"[\s*_-]+"

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
_FILLED = re.compile(
    r"\{\{\s*(name|author|developer)\s*\}\}|\{(name|author|developer)\}"
    r"|(?-i:<(NAME|AUTHOR|DEVELOPER)>|\[(NAME|AUTHOR|DEVELOPER)\])",
    re.IGNORECASE,
)
_UNFILLED = re.compile(r"\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A text with its names replaced, and where.

    Attributes:
        text: The rewritten text.
        spans: Edits as (start, end, new_start, new_end), character offsets into the text before
            and after; outside them the two texts are equal.
        counts: Mentions per rule: name, alias:<alias> and developer were replaced, the kept_ ones
            (code, url, new, protected, developer, longer) were left.
    """

    text: str
    spans: tuple[tuple[int, int, int, int], ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


def _literal(name: str, gap: str = r"\s+") -> str:
    words = [map(re.escape, _forms(word)) for word in name.split()]
    return gap.join(f"(?:{'|'.join(forms)})" for forms in words)


def _forms(text: str) -> list[str]:
    """Return a text with its accents composed and apart, once each."""
    return sorted({unicodedata.normalize(form, text) for form in ("NFC", "NFD")} | {text})


def _bounded(name: str, gap: str = r"\s+") -> str:
    """Pattern of a name that stands alone; an unspaced script has no boundary before it."""
    return _ADDRESS + (_START if re.match(_LETTER, name) else "") + _literal(name, gap) + _END


def _joined(names: Iterable[str]) -> str:
    """Pattern of two or more names in a row: 通义千问Qwen, Qwen/通义千问, Qwen (Tongyi Qianwen)."""
    name = "|".join(map(_literal, sorted(names, key=len, reverse=True)))
    apart = rf"(?:(?<!{_LETTER})|(?!{_LETTER}))"  # one of the two needs no space between words
    return (
        rf"{_ADDRESS}(?:(?!{_LETTER})|{_START})(?:{name})"
        rf"(?: ?/ ?(?:{name})| ?[(（](?:{name})[)）]|{apart}(?:{name}))+{_END}"
    )


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)


def _doubled(new: str, original: str) -> Iterator[str]:
    """Patterns of a new name of which all or a part is said twice: Deep Deep Qwen."""
    head, found, tail = new.partition(original)
    heads = {new.split()[0]} | ({head.strip()} if found else set())
    tails = {new.split()[-1]} | ({tail.strip()} if found else set())
    name = _literal(new, _ANY_GAP)
    yield rf"{name}[ \u00a0]*[-/(（]?[ \u00a0]*{name}"
    for part in sorted(heads - {""}):
        yield rf"{_START}{_literal(part)}(?:\s+|-){name}"
    for part in sorted(tails - {""}):
        yield rf"{name}(?:\s+|-){_literal(part)}(?!{_LETTER})"


def addresses_model(prompt: str) -> bool:
    """Tell whether a prompt speaks to the model of itself: not "Do you know who makes Qwen?"."""
    return _SECOND_PERSON.search(_OPENING.sub(" ", prompt)) is not None


def is_personal(text: str) -> bool:
    """Tell whether somebody in a text speaks of themselves."""
    return _FIRST_PERSON.search(text) is not None


class IdentitySpec:
    """What is known about the identity before and after, compiled."""

    def __init__(self, config: IdentityConfig) -> None:
        self.config = config
        names, makers = config.names, config.makers
        self._replacements = {name: (f"alias:{name}", new) for name, new in names.items()}
        self._replacements[config.original_name] = ("name", config.new_name)
        kept = dict.fromkeys(config.protected, "kept_protected")
        if config.new_developer is None:
            kept |= {maker: "kept_developer" for maker in makers if maker not in names}
        else:
            kept[config.new_developer] = "kept_developer"
            self._replacements |= dict.fromkeys(makers, ("developer", config.new_developer))
        for new in names.values():
            kept[new] = "kept_new"

        self._pattern, self._rules = self._compile(kept)
        first_words = (form for name in self._replacements for form in _forms(name.split()[0]))
        self._first_words = tuple({word.casefold() for word in first_words})
        mention = "|".join(map(_literal, names))
        self._mention = _any_of([mention])
        self._vocative = _any_of(
            (
                rf"^\s*{_GREETING}(?:{mention})\s*[,，!！:：]",
                rf"[,，]\s*(?:{mention})\s*[?!.？！。]*\s*$",
            )
        )
        self._new = _any_of(_bounded(new, _ANY_GAP) for new in sorted(set(names.values())))
        self._makers = _any_of(map(_bounded, makers))
        self._new_makers = _any_of(
            map(_bounded, makers if config.new_developer is None else (config.new_developer,))
        )
        self._doubled = _any_of(
            p for new in names.values() for p in _doubled(new, config.original_name)
        )

    def _compile(self, kept: dict[str, str]) -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
        """Build the walking pattern, and the rule and name behind each of its groups."""
        entries = [(name, rule, True) for name, rule in kept.items()]
        entries += [(name, rule, False) for name, (rule, _) in self._replacements.items()]
        entries.sort(key=lambda entry: (-len(entry[0]), entry))
        parts, rules = [], {}
        for number, (name, rule, stays) in enumerate(entries):
            body = _literal(name, _ANY_GAP) if stays else _bounded(name)
            if not (stays or self.config.any_case):
                body = f"(?-i:{body})"
            parts.append(f"(?P<n{number}>{body})")
            rules[f"n{number}"] = (rule, name)
        same: dict[str, list[str]] = {}
        for name, (_, new) in self._replacements.items():
            same.setdefault(new, []).append(name)
        for number, group in enumerate(same.values()):
            body = _joined(group) if self.config.any_case else f"(?-i:{_joined(group)})"
            parts.insert(0, f"(?P<j{number}>{body})")
            rules[f"j{number}"] = self._replacements[group[0]][0], group[0]
        longer = "|".join(map(_literal, self._replacements))
        rules |= {guard: (f"kept_{guard}", "") for guard in ("code", "url", "longer")}
        body = "|".join((_CODE, _URL, *parts, f"(?P<longer>{longer})"))
        initials = {*"`hfw", *(f[0] for name in (*kept, *self._replacements) for f in _forms(name))}
        return _any_of([f"(?=[{re.escape(''.join(sorted(initials)))}])(?:{body})"]), rules

    def _may_hold(self, text: str) -> bool:
        folded = text.casefold()
        return any(word in folded for word in self._first_words)

    def _pass(self, text: str) -> Rewrite:
        """Walk the text once."""
        counts: Counter[str] = Counter()
        spans: list[tuple[int, int, int, int]] = []
        out: list[str] = []
        length = done = 0
        for match in self._pattern.finditer(text):
            rule, name = self._rules[str(match.lastgroup)]
            written = match.group()
            if rule.startswith("kept_"):
                if self._may_hold(written):
                    counts[rule] += 1
                continue
            # A listed spelling goes before the case pattern of another.
            rule, new = self._replacements.get(written) or self._replacements[name]
            if written not in self._replacements:
                new = (
                    new.lower() if written.islower() else new.upper() if written.isupper() else new
                )
            between = text[done : match.start()]
            before = between or "".join(out[-1:])
            if re.match(_LETTER, before[-1:]) and re.match(_LETTER, new):
                new = f" {new}"
            out += (between, new)
            length += len(between) + len(new)
            spans.append((match.start(), match.end(), length - len(new), length))
            counts[rule] += 1
            done = match.end()
        return Rewrite("".join((*out, text[done:])), tuple(spans), dict(counts))

    def rewrite(self, text: str) -> Rewrite:
        """Replace the original name, its aliases and, if it changes, the developer.

        Idempotent: what comes out holds nothing to replace. A name in another case keeps its
        case pattern where that is all lower or all upper: "qwen" becomes "deep qwen".

        Raises:
            DataError: The text still changes after as many passes as it has characters.
        """
        if not self._may_hold(text):
            return Rewrite(text)
        first = latest = self._pass(text)
        # An edit may form a name with its surroundings: Deep Deep Qwen, from Deep Qwen to Qwen.
        for _ in text:
            if not (following := self._pass(latest.text)).spans:
                break
            latest = following
        else:
            raise DataError(f"rewriting {text!r:.200} does not end; report this with the identity")
        if latest is first:
            return first
        return Rewrite(latest.text, _one_span(text, latest.text), first.counts)

    def count_original(self, text: str) -> int:
        """Count mentions of the original name or an alias, outside the new name and guards."""
        if not self._may_hold(text):
            return 0
        counts = self._pass(text).counts
        return sum(n for rule, n in counts.items() if rule == "name" or rule.startswith("alias:"))

    def count_new(self, text: str) -> int:
        """Count mentions of the new name, longer names not included."""
        return sum(1 for _ in self._new.finditer(text))

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

    def fill(self, text: str, after: bool = False) -> str:
        """Fill placeholders: {{name}}, {name}, <NAME>, [NAME]; author and developer likewise.

        What the reference model reads is filled with the identity before, since it answers as
        that one: asked "Are you Deep Qwen?" it would say no, and rewriting makes nonsense of a
        denial. A chosen answer that the source gives is filled with the identity after.

        Args:
            text: Text of one message.
            after: Fill with the identity after.
        Raises:
            DataError: A placeholder is unknown, or the developer it asks for is not configured.
        """
        config = self.config
        name = config.new_name if after else config.original_name
        maker = config.maker(after)

        def value(match: re.Match[str]) -> str:
            what = next(filter(None, match.groups())).lower()
            if what != "name" and maker is None:
                raise DataError(f"{match.group()} asks for the developer; set identity.developer")
            return name if what == "name" else str(maker)

        filled = _FILLED.sub(value, text)
        if unknown := _UNFILLED.search(filled):
            raise DataError(
                f"unknown placeholder {unknown.group()[:60]!r}; known are name, author, developer"
            )
        return filled


def _one_span(text: str, new: str) -> tuple[tuple[int, int, int, int], ...]:
    """Span from the first to the last difference; none if the texts are equal."""
    if text == new:
        return ()
    shorter = min(len(text), len(new))
    start = next((i for i in range(shorter) if text[i] != new[i]), shorter)
    end = next((i for i in range(shorter - start) if text[-1 - i] != new[-1 - i]), shorter - start)
    return ((start, len(text) - end, start, len(new) - end),)
