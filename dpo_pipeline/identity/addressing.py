"""Whom a text speaks to, and of whom: the model itself, the speaker, or somebody else."""

import re

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


def addresses_model(prompt: str) -> bool:
    """Tell whether a prompt speaks to the model of itself: not "Do you know who makes Qwen?"."""
    return _SECOND_PERSON.search(_OPENING.sub(" ", prompt)) is not None


def is_personal(text: str) -> bool:
    """Tell whether somebody in a text speaks of themselves."""
    return _FIRST_PERSON.search(text) is not None


def vocative(names: str) -> re.Pattern[str]:
    """Return the pattern of a call by name, at the start or the end: "Qwen, who made this?"."""
    start = rf"^\s*{_GREETING}(?:{names})\s*[,，!！:：]"
    return re.compile(rf"{start}|[,，]\s*(?:{names})\s*[?!.？！。]*\s*$", re.IGNORECASE)
