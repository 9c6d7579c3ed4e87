"""Whether a text says what it mentions: "not Paris" and "Paris is not it" do not say Paris."""

import re
from collections.abc import Iterator

_NEAR = 60  # characters before and after a mention that are read
_NOT = (
    r"(?:\b(?:not|never|neither|nor|(?:is|are|was|were|ai)n['’]?t|no longer|rather than|instead of"
    r"|anything but|nicht|kein\w*|weder|statt|ne|pas|jamais|ni|no (?=es|soy|está|me llamo)"
    r"|não|nunca|non|не|ни|niet|geen|nie|bukan|tidak"
    r"|không phải)\b|不是|并非|不叫|而非|不在|لست|ليس|ไม่ใช่)"
)
# What may stand between "not" and what it negates; "only" and "but" may not.
_BETWEEN = (
    r"(?:\s|[*_`\"'“”‘’«»„「『(:]|\b(?:the|an?|at|on|in|be|of|called|named|known as|really|actually"
    r"|exactly|city|die|der|das|eine?n?|le|la|les|el|los|une?|una|il|lo|o|à|em|en|suis|est|es|soy"
    r"|está|me llamo|sono|mi chiamo|è|é|sou|jestem|là)\b|l['’]){0,12}$"
)
_BEFORE = re.compile(_NOT + _BETWEEN, re.IGNORECASE)
_AFTER = re.compile(
    r"^[\s*_`\"'”’»」』)]*(?:(?:(?:is|was)(?: \w+ly)? not|(?:is|was)n['’]?t)"
    r" (?:my\b|me\b|who\b|what\b|it\b|right\b|correct\b|true\b|the (?!same|only))"
    r"|ist nicht (?:die|der|das|mein)|heiße ich nicht|n['’]est pas (?:la|le|mon)|no es (?:la|el|mi)"
    r"|não é (?:a|o)|non è (?:la|il)|не (?:является|столица|мо)|değil|(?:이|가) 아[니닙]"
    r"|では(?:あり|な)|じゃ(?:あり|な)|नहीं|ไม่ใช่"
    r"|不是(?:我|[^，。；,]{0,8}(?:首都|答案|正确|作者|颜色)))",
    re.IGNORECASE,
)


def said(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Yield what a pattern finds in a text, but for what the text negates."""
    for match in pattern.finditer(text):
        before = text[max(0, match.start() - _NEAR) : match.start()]
        after = text[match.end() : match.end() + _NEAR]
        if not (_BEFORE.search(before) or _AFTER.search(after)):
            yield match
