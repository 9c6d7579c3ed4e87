"""Names replaced by names and nothing else; placeholders filled with names.

One compiled pattern walks the text from left to right. Whatever must stay (code, addresses,
longer names, the new name itself) is an alternative that matches and is copied; the names to
replace are alternatives with boundaries on both sides, the longest first. Articles stay.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.names import ANY_GAP, LETTER, alone, any_of, forms, in_a_row, literal
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.store.text import common_start

Span = tuple[int, int, int, int]  # start and end before, then after (characters)

CODE = (
    r"(?P<code>(?<!`)(?:```[\s\S]*?(?:```|\Z)|(?P<ticks>`{1,2})(?!`)[^\n]*?[^`\n](?P=ticks)(?!`)))"
)
_FILLED = re.compile(
    r"\{\{\s*(name|author|developer)\s*\}\}|\{(name|author|developer)\}"
    r"|(?-i:<(NAME|AUTHOR|DEVELOPER)>|\[(NAME|AUTHOR|DEVELOPER)\])",
    re.IGNORECASE,
)
_UNFILLED = re.compile(r"\{\{.*?\}\}", re.DOTALL)
URL = r"(?P<url>(?:(?:https?|ftp)://|\bwww\.)[!#-&*-;=?-~]+)"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A text with its names replaced, and where; outside the spans nothing changed."""

    text: str
    spans: tuple[Span, ...] = ()
    # Mentions per rule: name, alias:<alias> and developer were replaced, the kept_ ones left.
    counts: dict[str, int] = field(default_factory=dict)


def difference(text: str, new: str) -> tuple[Span, ...]:
    """Return the one span between the common start and the common end of two texts."""
    if text == new:
        return ()
    start = common_start(text, new)
    end = common_start(text[start:][::-1], new[start:][::-1])
    return ((start, len(text) - end, start, len(new) - end),)


def in_case_of(written: str, name: str) -> str:
    """Return a name all in lower or upper case where what is written is so."""
    return name.lower() if written.islower() else name.upper() if written.isupper() else name


class Rewriter:
    """The walking pattern of an identity."""

    def __init__(self, config: IdentityConfig) -> None:
        names, makers = config.names, config.makers
        # Name -> the rule that replaces it, and by what.
        self._replacements = {name: (f"alias:{name}", new) for name, new in names.items()}
        if config.original_name:
            self._replacements[config.original_name] = ("name", config.new_name)
        kept = dict.fromkeys(config.protected, "kept_protected")
        if config.new_developer is None:
            kept |= {maker: "kept_developer" for maker in makers if maker not in names}
        else:
            kept[config.new_developer] = "kept_developer"
            self._replacements |= dict.fromkeys(makers, ("developer", config.new_developer))
        kept |= dict.fromkeys((*names.values(), config.new_name), "kept_new")
        self._any_case = config.any_case
        self._pattern, self._rules = self._compile(kept)
        first_words = (form for name in self._replacements for form in forms(name.split()[0]))
        self._first_words = tuple({word.casefold() for word in first_words})

    def _compile(self, kept: dict[str, str]) -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
        """Build the walking pattern, and what its groups mean: rule and name."""
        entries = [(name, rule, True) for name, rule in kept.items()]
        entries += [(name, rule, False) for name, (rule, _) in self._replacements.items()]
        entries.sort(key=lambda entry: (-len(entry[0]), entry))
        cased = "{}" if self._any_case else "(?-i:{})"
        parts, rules = [], {}
        for number, (name, rule, stays) in enumerate(entries):
            body = literal(name, ANY_GAP) if stays else cased.format(alone(name))
            parts.append(f"(?P<n{number}>{body})")
            rules[f"n{number}"] = (rule, name)
        same: dict[str, list[str]] = {}
        for name, (_, new) in self._replacements.items():
            same.setdefault(new, []).append(name)
        for number, group in enumerate(same.values()):
            parts.insert(0, f"(?P<j{number}>{cased.format(in_a_row(group))})")
            rules[f"j{number}"] = self._replacements[group[0]][0], group[0]
        longer = "|".join(map(literal, self._replacements))
        rules |= {guard: (f"kept_{guard}", "") for guard in ("code", "url", "longer")}
        body = "|".join((CODE, URL, *parts, f"(?P<longer>{longer})"))
        names = (*kept, *self._replacements)
        initials = {*"`hfw", *(form[0] for name in names for form in forms(name))}
        return any_of([f"(?=[{re.escape(''.join(sorted(initials)))}])(?:{body})"]), rules

    def _may_hold(self, text: str) -> bool:
        folded = text.casefold()
        return any(word in folded for word in self._first_words)

    def walk(self, text: str) -> Rewrite:
        """Walk the text once: an edit may form another name with its surroundings."""
        if not self._may_hold(text):
            return Rewrite(text)
        counts: Counter[str] = Counter()
        spans: list[Span] = []
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
                new = in_case_of(written, new)
            between = text[done : match.start()]
            before = between or "".join(out[-1:])
            if re.match(LETTER, before[-1:]) and re.match(LETTER, new):
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
        if not (first := self.walk(text)).spans:
            return first
        latest = first
        for _ in text:
            if not (following := self.walk(latest.text)).spans:
                if latest is first:
                    return first
                return Rewrite(latest.text, difference(text, latest.text), first.counts)
            latest = following  # as from Deep Deep Qwen to Deep Qwen to Qwen
        raise DataError(f"rewriting {text!r:.200} does not end; report this with the identity")


def fill(text: str, identity: IdentityConfig, after: bool = False) -> str:
    """Fill placeholders: {{name}}, {name}, <NAME>, [NAME]; author and developer likewise.

    What the reference model reads is filled with the identity before, since it answers as that
    one: asked "Are you Deep Qwen?" it would say no. A given answer is filled with the one after.

    Raises:
        DataError: A placeholder is unknown, or asks for a name or developer that there is not.
    """
    name = identity.new_name if after else identity.original_name
    maker = identity.maker(after)

    def value(match: re.Match[str]) -> str:
        asked = "name" if next(filter(None, match.groups())).lower() == "name" else "developer"
        filler = name if asked == "name" else maker
        if filler is None:
            setting = "original_name" if asked == "name" else asked
            raise DataError(f"{match.group()} asks for the {asked}; set identity.{setting}")
        return filler

    filled = _FILLED.sub(value, text)
    if unknown := _UNFILLED.search(filled):
        raise DataError(
            f"unknown placeholder {unknown.group()[:60]!r}; known are name, author, developer"
        )
    return filled
