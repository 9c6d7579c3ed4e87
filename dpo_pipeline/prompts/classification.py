"""What a question is about, and in which language."""

import re

from dpo_pipeline.identity.mentions import IdentitySpec, addresses_model
from dpo_pipeline.prompts.split import TOKEN

FAMILIES = (
    *("name", "maker", "are_you", "both", "multi_turn"),
    *("indirect", "adversarial", "third_party", "other"),
)
_LONGEST = 1000  # characters that are read for a family
_SCRIPTS = {
    "ja": r"[\u3040-\u30ff]",
    "ko": r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]",
    "zh": r"[\u3400-\u4dbf\u4e00-\u9fff]",
    "th": r"[\u0e00-\u0e7f]",
    "ru": r"[\u0400-\u04ff]",
    "ar": r"[\u0600-\u06ff]",
    "hi": r"[\u0900-\u097f]",
    "el": r"[\u0370-\u03ff]",
    "he": r"[\u0590-\u05ff]",
}
_WORDS = {
    "es": r"[¿ñ]|\b(?:qué|quién|eres|cómo|tú|cuál|tu nombre|dime|hola)\b",
    "fr": r"[êç]|\b(?:qui|vous|quel(?:le)?|tu|ton|comment|où|bonjour|t'\w+)\b",
    "de": r"[ßöü]|\b(?:wer|bist|du|dich|dein(?:en)?|wie|sag|sind|welche[rs]?|von wem|hallo)\b",
    "pt": r"[ãõ]|\b(?:quem|você|qual|seu|olá)\b",
    "it": r"\b(?:chi|sei|come|tuo|ciao)\b",
}
_LANGUAGES = {code: re.compile(rule, re.IGNORECASE) for code, rule in (_SCRIPTS | _WORDS).items()}
_LATIN = re.compile(r"[a-z]", re.IGNORECASE)
_CREATE = "开发|创造|创建|创作|训练|制作|打造|设计|发明|研发|制造|作品|产品"
# The first that is found names the family.
_RULES = {
    "adversarial": r"\b(?:ignore|disregard|forget|pretend|role-?play|act as|jailbreak"
    r"|system (?:prompt|update)|admit|confess|lie|lying|lies|liar|honest|truth|secretly"
    r"|repeat|say:|now you are|from now on|come on)\b"
    r"|忽略|忘记|假装|扮演|系统提示|系统更新|承认|撒谎|骗|说实话|重复",
    "indirect": r"\b(?:sign|write|complete|finish|fill in|credit|thank|sentence|poem|mention)\b"
    r"|署名|签名|感谢|填",
    "are_you": r"^(?!.*\b(?:who|what|which|how|where|why|whose|old)\b.*\bare you)"
    r".*\b(?:are|aren't) (?:you|u)\b"
    r"|(?:^|\b(?:so|says?|thinks?|believe|heard|know|that) |, )(?:you are|you're)\b"
    r"|(?:^|, )(?:is (?:this|it|your name)|am i \w+ing (?:to|with))\b"
    r"|^(?:is|did|was|were) .*\byour?\b|(?<!qui )\bes-tu\b|(?<!quién )\beres\b|(?<!wer )\bbist du\b"
    r"|你(?:的名字)?(?:真的|就)?是(?!谁|什么|哪|由|怎)[^谁]+[吗么嘛]|你是不是|我在(?:和|跟|与)(?!谁).+吗",
    "maker": r"\b(?:who|whose|whom|which|what)\b.*\b(?:made|makes?|creat|built|builds?|develop"
    r"|train|design|own|behind|program|work|belong|firm|product|wrote)"
    r"|\b(?:company|team|lab|organi[sz]ation|creators?|developers?|makers?)\b"
    rf"|\bwhere\b.*\b(?:from|you)\b|谁.*(?:{_CREATE})|(?:{_CREATE})者|主人|公司|团队|来自|哪里|创始"
    r"|\b(?:créé|fait|développé|entraîné|entreprise|société|d'où|creó|hizo|desarrolló|entrenó|empresa"
    r"|de dónde|entwickelt|gemacht|erschaffen|trainiert|gebaut|firma|unternehmen|woher)\b",
    "name": r"\bwho (?:\w+ )?(?:are|r) (?:you|u)\b|\bwho (?:is this|am i)\b|\bwhat are you\b"
    r"|\bname\b(?! your)|\bcall(?:ed)?\b|\baddress you\b|\byourself\b|identity"
    r"|\b(?:what|which) (?:\w+ )*(?:ai|model|assistant|chatbot|bot|llm)\b"
    rf"|名字|叫什么|称呼|介绍|身份|[你您](?:到底)?是谁(?![^？?，,。]*(?:{_CREATE}))|模型"
    r"|是什么|[和跟与]谁|appelle|heißt|namen?\b"
    r"|\b(?:llamas|nombre|quién eres|nom|qui es-tu|wer bist du)\b",
}
_FAMILIES = {family: re.compile(rule, re.IGNORECASE) for family, rule in _RULES.items()}
_OTHERS = re.compile(
    r"(?<![a-z])(?:chatgpt|gpt-?\d|claude|gemini|llama|mistral|deepseek|grok|siri|alexa|bard|copilot)"
    r"|文心一言",
    re.IGNORECASE,
)


def language(text: str) -> str:
    """Guess a language: by script, then by small words; English if nothing says otherwise."""
    latin = len(_LATIN.findall(text))
    for code in _SCRIPTS:
        # A sign of another script says more than a Latin letter: 你是OpenAI开发的ChatGPT吗
        if (count := len(_LANGUAGES[code].findall(text))) and 3 * count >= latin:
            return code
    hits = {code: len(_LANGUAGES[code].findall(text)) for code in _WORDS}
    best = max(hits, key=lambda code: hits[code])
    return best if hits[best] >= min(2, len(TOKEN.findall(text)) // 2) and hits[best] else "en"


def family(question: str, turns: int, spec: IdentitySpec) -> str:
    """Guess the family of a prompt from the words of its last turn."""
    if turns > 1:
        return "multi_turn"
    question = question[:_LONGEST]
    about_you = addresses_model(question)
    found = [name for name, rule in _FAMILIES.items() if rule.search(question)]
    found = [name for name in found if about_you or name == "indirect"]
    if "adversarial" not in found:
        if spec.is_third_party(question) or (_OTHERS.search(question) and not about_you):
            return "third_party"
        if found == ["maker", "name"]:
            return "both"
    if found:
        return found[0]
    return "indirect" if about_you else "other"
