"""What an answer claims of its author: who it is, and who made it.

Each pattern is one way of speaking of oneself, read in sentences without markup. A known vendor
counts in any case, any other name where it is written like one: "I am Elena" and "i am chatgpt"
are claims, "I am sorry" and "I am not ChatGPT" are not.
"""

import re
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from dpo_pipeline.identity.disguises import shown
from dpo_pipeline.identity.mentions import CONSENT, IdentitySpec, addresses_model
from dpo_pipeline.identity.names import any_of
from dpo_pipeline.identity.vendors import VENDORS


class Claims(NamedTuple):
    """Names that the speaker goes by, and whom it says it was made by; as written, once each."""

    names: tuple[str, ...]
    makers: tuple[str, ...]


def _known(names: Iterable[str]) -> str:
    ordered = sorted(names, key=len, reverse=True)
    return rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, ordered))})(?![A-Za-z])"


_AI = _known(chain.from_iterable(vendor.assistants for vendor in VENDORS))
_FIRM = _known(chain.from_iterable(vendor.makers for vendor in VENDORS))
_LETTERS = "A-Za-z0-9À-ÖØ-öø-ÿА-я"
_WORD = rf"(?-i:[A-ZÀ-ÖØ-ÞА-Я][{_LETTERS}_-]*(?:['’](?!s\b)[{_LETTERS}]+)?(?:\.\d[{_LETTERS}]*)?)"
_ANY = rf"(?>(?:(?:Dr|Mr|Mrs|Ms|Prof) )?{_WORD}(?: (?:{_WORD}|\d[\d.]*\b))*|{_AI}|{_FIRM})"
_NAME, _MAKER = rf"(?P<name>{_ANY})", rf"(?P<maker>{_ANY})"
# In Chinese a name ends where the phrase does.
_STOP = r"(?=\s*(?:[，。！？,.!?；;、:：()（）]|$))"
_NAME_ZH = r"\s*(?P<name>(?:(?!的)[\u4e00-\u9fff·]){0,10}?(?:[A-Za-z][A-Za-z0-9_.+ -]*?)?)"
_MAKER_ZH = rf"\s*(?P<maker>{_FIRM}|[^，。！？,.!?\s由是的]{{1,20}}?|[A-Z][\w. ]*?)\s*"
_MADE_ZH = (
    r"(?:公司|集团|团队|科技)?的?(?:团队)?(?:自主|独立|联合|精心|所)?(?:研究)?"
    r"(?:研发|开发|创建|创造|训练|制作|制造|设计|推出|打造|研制|创立|提供|发布|构建)"
)
_MINE_ZH = r"(?:开发者|创造者|创建者|制造商|制造者|开发商|主人|公司|团队|人)"
_NEAR_ZH = r"[^，。！？,!?不像似跟和比]"
# What is said of oneself ends where somebody else may come in.
_OTHER = (
    "not|never|like|than|similar|unlike|about|that|who|which|can|could|with|for|to|on|but|if|from"
    "|of|by"
)
_PHRASE = rf"(?:(?!(?:{_OTHER})\b)[\w-]+(?:['’]s)? ){{0,9}}?"
_CLAUSE = r"(?:(?!\b(?:not|never|like|unlike|similar|than|nor)\b|n['’]t\b).){0,160}?"
_ME = r"\bI(?:['’]?m| am)\b"
_VERBS = "created|developed|trained|built|made|designed|programmed"
_BY = (
    rf"(?:{_VERBS}|powered|founded|owned|provided|released|launched|engineered)"
    r"(?:(?: and|,| or) (?:is )?\w+)*,? by (?:(?:the|an?|its|my) )?"
    r"(?:(?:[\w-]+ ){0,4}"
    r"(?:at|from|called|named|of|company|firm|startup|giant|creators?|developers?),? )?"
)
_BY_EUROPE = (
    "(?:entwickelt|erstellt|trainiert|geschaffen|gebaut"
    "|(?:cré|développ|entraîn)ée?|conçue?|(?:cread|desarrollad|entrenad|diseñad)[oa])"
)
# Other languages: what says "I am", "my name is" and "made", and what denies. Of their sentences
# only known vendors are read, but for a name after "my name is".
_CALLED = (
    r"(?:меня зовут|мо[её] имя|mi chiamo|il mio nome è|me chamo|meu nome é|ik heet|mijn naam is"
    r"|nazywam się|mam na imię|(?:benim )?adım|tên tôi là|nama saya(?: adalah)?|(?:私|僕)の名前は"
    r"|제 이름은|اسمي|मेरा नाम|ฉันชื่อ|ผมชื่อ)"
)
_IS = (
    r"(?:\b(?:я(?: это)?|(?<!non )sono|(?<!não )(?:eu )?sou(?: o| a)?|ik ben|jestem|ben"
    r"|tôi là|(?:saya|aku)(?: adalah)?)"
    r"|私は|僕は|저는|나는|أنا|मैं|ฉันคือ|ผมคือ)"
)
_OF_ME = (
    r"\b(?:я|меня|мной|sono|mi ha|sou|fui|me criou|me treinou|ik|mij|jestem|mnie"
    r"|zostałem|ben|beni|tôi|saya|aku)\b"
    r"|\w[ıiuü]mdim\b|dim\b|[私僕]|저는|저를|나는|أنا|मैं|मुझे|ฉัน|ผม"
)
_MADE_WORLD = (
    "разработ|созда|обуч|модель|creat|svilupp|addestr|cri(?:ou|ad)|desenvolv|treina"
    "|gemaakt|ontwikkel|getraind|stworz|opracow|wytren|geliştir|yap|eğit|phát triển|tạo ra"
    "|huấn luyện|dibuat|dikembang|dilatih|開発|作ら|作っ|訓練"
    "|학습|개발|만든|만들|훈련|طور|تطوير|صنع|تدريب"
    "|أنشأ|बनाया|विकसित|प्रशिक्षित|พัฒนา|สร้าง|ฝึก"
)
_DENIES_WORLD = (
    r"\b(?:не|нет|non|não|niet|geen|nie|değil\w*|không|bukan|tidak)\b|ない|ません|아니|아닙|않|لست|ليس"
    "|नहीं|ไม่"
)
_NO_DENIAL = rf"(?!.{{0,8}}(?:{_DENIES_WORLD}|では|じゃ))"
_SAID = (
    rf"{_IS}\W{{0,4}}(?P<name>{_AI}){_NO_DENIAL}",
    rf"{_CALLED}\W{{0,4}}{_NAME}{_NO_DENIAL}",
    rf"\bit['’]s me,? {_NAME}|^(?P<here_name>{_ANY}),? at your service\b",
    rf"{_ME},? (?:(?:also|actually|indeed|just|called|named|known as|none other than|the|based on"
    r"|powered by) )*"
    rf"{_NAME}(?!['’]s)",
    rf"\b(?:my (?:\w+ )?name(?:['’]s| is| would be)|the name(?:['’]s| is)|calls? me|I go by"
    rf"|refer to me as) (?:simply |just )?{_NAME}",
    rf"{_ME} {_PHRASE}(?:called|named|known as) {_NAME}",
    rf"(?:{_ME}|\bAs an?\b) {_PHRASE}(?P<name>(?-i:{_AI}))",
    rf"\b(?:talk|speak|chatt|interact)ing (?:to|with)"
    rf" (?:(?:is|an?|the|called|named|me,|AI|large|language|model|assistant) )*{_NAME}",
    rf"\bthis is {_NAME}|^\W*As (?P<as_name>{_ANY}), I\b|^(?P<here_name>{_ANY}) here\b",
    rf"{_NAME} is my name\b",
    rf"\b(?:ich bin|ich heiße|mein Name ist|nenn(?:en Sie)? mich) {_NAME}",
    rf"\b(?:je suis|je m['’]appelle|mon nom est|appelez-moi) {_NAME}",
    rf"\b(?:soy|me llamo|mi nombre es|puedes llamarme) {_NAME}",
    rf"(?:我(?:就|也)?是|我名?叫做?|我的(?:名字|名称|全名)[是叫]做?|(?:叫|称呼?)我(?:为|叫)?|我被称[为作]){_NAME_ZH}{_STOP}",
    rf"我就?是[^不]*?(?:名[为叫]|叫做?|称为){_NAME_ZH}(?:的|{_STOP})",
    rf"(?:我就?是|我叫|我的名字[是叫]|叫我|作为|[我你]是?正?在[和与跟]){_NEAR_ZH}{{0,24}}?(?P<name>{_AI})",
)
_MADE = (
    rf"^(?=.{{0,160}}(?:{_OF_ME}))(?=.{{0,200}}(?:{_MADE_WORLD}))(?!.*(?:{_DENIES_WORLD}))"
    rf".{{0,160}}?(?P<maker>{_FIRM})",
    rf"(?:{_ME}|\bI (?:was|have been)\b|\bI['’]ve been\b|\bAs an?\b){_CLAUSE}\b{_BY}{_MAKER}",
    r"\b(?:this (?:AI|model|assistant|chatbot)"
    rf"|the [\w ]{{1,30}}?\b(?:(?:{_VERBS}) me\b|you(?: are|['’]re)))"
    rf"{_CLAUSE}(?:\b{_BY}|\b(?:is|was) (?:called |named )?){_MAKER}",
    rf"\bmy (?:creators?|developers?|makers?|company|owner)(?: is| are|,) (?:the )?{_MAKER}",
    rf"{_MAKER}(?:['’]s \w+)?,? (?:who |which |has |that )?(?:{_VERBS}) me\b",
    rf"{_MAKER} (?:is|was|are) my (?:creator|developer|maker)",
    rf"(?:{_ME} (?:from )?|\bI (?:come from|belong to|work for) )(?P<maker>{_FIRM})",
    rf"{_ME} {_PHRASE}(?P<maker>(?-i:{_FIRM}))",
    rf"\b(?:ich|je|soy|fui|me)\b.*?\b(?:von|par|por) {_MAKER}(?= {_BY_EUROPE})",
    rf"\b(?:ich|je|j['’]\w+|soy|fui|me)\b.*?\b{_BY_EUROPE} (?:von|par|por) {_MAKER}",
    rf"我就?(?:是|由|，|,|的)(?:[^不]*?由)?{_MAKER_ZH}{_MADE_ZH}",
    rf"我就?是[^不]*?[，,]\s*(?P<maker>{_FIRM}){_MADE_ZH}",
    rf"[我你]是?正?在[和与跟]{_NEAR_ZH}{{0,6}}?(?P<maker>{_FIRM})",
    rf"我就?是?[^不]*?(?:来自|属于){_MAKER_ZH}(?=的|公司|集团|团队|{_STOP})",
    rf"(?:我的|(?:开发|创造|创建|训练)我的?){_MINE_ZH}+[是叫为]{_MAKER_ZH}(?=研发|公司|集团|团队|的|{_STOP})",
    rf"(?:^|[，,是]){_MAKER_ZH}(?:公司|团队)?(?:开发|创造|创建|训练|制作|设计)了?我",
    rf"我就?是{_NEAR_ZH}{{0,6}}?(?P<maker>{_FIRM})",
)
# Where the question was about the model it goes without saying who is meant.
_ANSWERS_NAME = (
    rf"^\W*name\W{{1,4}}{_NAME}",
    rf"^\W*(?:it['’]s|it is|that['’]s)? ?{_NAME}\W*$",
    rf"^\W*[叫是]?(?P<name>{_AI})\W*$",
)
_ANSWERS_MAKER = (
    rf"^\W*(?:developer|maker|creator|company)\W{{1,4}}{_MAKER}",
    rf"^{_CLAUSE}\b{_BY}{_MAKER}",
    rf"^\W*(?:by|it['’]s|it is|it was)? ?(?:the )?{_MAKER}(?: (?:{_VERBS}|did)\b.*)?\W*$",
    rf"^(?:[^不]*?由)?{_MAKER_ZH}{_MADE_ZH}",
    rf"^\W*[是由]?(?P<maker>{_FIRM})(?:公司|集团|团队)?\W*$",
)
_ASKED_NAME = (
    r"\b(?:are you|you are|you['’]re|is your name|am i \w+ing (?:to|with)|is this) (?:really )?"
    rf"{_NAME}",
    r"你(?:的名字)?(?:就|真的)?[是叫](?P<name>[^吗么嘛，？?的]+?)(?:[吗么嘛？?]|，对)",
)
_ASKED_MAKER = (
    rf"\byou\b.*\b{_BY}{_MAKER}",
    rf"\bdid {_MAKER} (?:make|create|build|develop|train) you",
    rf"你.*?(?P<maker>{_FIRM})(?:公司)?(?:开发|训练|创造)",
)
_ASKS_NAME = re.compile(
    r"\bname|\bcall|who (?:are|r) (?:you|u)|what are you|yourself|\bwho is this|am i \w+ing"
    r"|(?:which|what) (?:\w+ )*(?:ai|model|assistant|chatbot|bot|llm)\b"
    r"|名字|叫什么|称呼|是谁|介绍|模型|heißt|appelle|llamas|nombre",
    re.IGNORECASE,
)
_ASKS_MAKER = re.compile(
    r"\b(?:who|wh?om|which|what|where|tell|name|wer|qui|quién)\b.*"
    r"(?:\b(?:ma[dk]e|creat|buil|develop|train|design|company|behind|owns|entwick|créé|cre[óo])|from\b)"
    r"|[谁哪什].*(?:开发|创造|创建|训练|公司|制造|团队|来自|研发)|(?:公司|开发者)",
    re.IGNORECASE,
)
# Written like a name, and none.
_NO_NAME = re.compile(
    r"(?:A\.?I|An?|The|I|It|My|Your?|This|That|As|In|Is|Are|Here|There|Just|Not|No|Yes|Sure|Of|Hi"
    r"|Hello|Hey|Okay|OK|Sorry|Thanks?|Please|Glad|Happy|Great|Well|What|Who|How|Which|And|But|So"
    r"|Also|Artificial|Assistant|Chat ?bot|Bot|Language|Large|LLM|NLP|Model|Machine|Virtual|Digital"
    r"|Natural|Human|Name|User|English|American|Chinese|French|German|Spanish|British|Indian"
    r"|Japanese|Korean|Russian|European|Developers?|Researchers?|Engineers?|Experts?|Humans?|People"
    r"|KI|IA|Assistente?|Asistente|Sprachmodell|Ihr|Dein|Ein|Une?|None|Unknown)(?:$|[\s'’-])"
    r"|一|来自|由|您|你|我|他|她|它|这|那|人|机器|语言|大|虚拟|智能|聊天|助手|助理|模型|基于|个|专|谁|不"
    r"|用|为|有|可|会|正|已|当|在|很|以|可以|能|什么|某|朋友|没|被|通过|超|计算机|程|多|许多|科学|研究|工程|团队|公司|开发"
    r"|自|如何|怎|中国|美国|英国|从|名|并|学|老|国|哪|.*(?:助手|助理|模型|程序|机器人|系统|人员|家|师|人)$"
)
_MINE = {"you are": "I am", "you're": "I'm", "your": "my", "你": "我", "您": "我"}
_YOUR = any_of(map(re.escape, _MINE))
_READ = 2000  # characters of an answer
_MARKUP = re.compile(r"</?[A-Za-z]{1,10}>|\]\([^)\s]*\)|[*_`#\[\]>\"“”「」『』]|(?<!\w)'|'(?!\w)")
_QUOTED = re.compile(
    r"\b(?:said|says?|asked|wrote|phrase|sentence|translat\w+|example|means?)\b[^.\n]{0,20}?"
    r"[\"“'][^\"”\n]{0,200}[\"”']|(?:说|问|写道|翻译|意思是|例如)[^。\n]{0,6}[“「\"][^”」\"\n]*[”」\"]",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_TITLE = re.compile(r"(?<=\b(?:Dr|Mr|Ms))\.(?= )|(?<=\b(?:Mrs))\.(?= )|(?<=\bProf)\.(?= )")


def claims(text: str, asked: str = "") -> Claims:
    """Say whom an answer claims to be and to be made by.

    Args:
        text: The answer.
        asked: Its question; to "What is your name?" a bare "Elena." is a claim, and a "Yes." to
            "Are you Claude?". Empty: only what the answer says by itself.
    """
    plain = _TITLE.sub("", _MARKUP.sub("", _QUOTED.sub(" ", shown(text[:_READ]))))
    sentences = [sentence for sentence in _SENTENCE.split(plain) if sentence.strip()]
    names, makers = _find(_SAID, sentences), _find(_MADE, sentences)
    if sentences and addresses_model(asked):
        if not names and _ASKS_NAME.search(asked):
            names = _find(_ANSWERS_NAME, sentences[:1])
        if not makers and _ASKS_MAKER.search(asked):
            makers = _find(_ANSWERS_MAKER, sentences[:2])
        if CONSENT.search(sentences[0]):
            names = names or _find(_ASKED_NAME, [asked])
            makers = makers or _find(_ASKED_MAKER, [asked])
    return Claims(names, tuple(maker for maker in makers if maker not in names))


def told(system: str) -> Claims:
    """Say whom a system message calls the model that it speaks to: "You are Qwen"."""
    return claims(_YOUR.sub(lambda found: _MINE[found[0].casefold()], system))


def claims_other(text: str, spec: IdentitySpec, asked: str = "") -> bool:
    """Tell whether an answer claims to be, or to be made by, anybody but the identity itself."""
    said = claims(text, asked)
    return not all(map(spec.is_own, (*said.names, *said.makers)))


def _find(rules: Iterable[str], texts: Iterable[str]) -> tuple[str, ...]:
    """Collect what the patterns find and what is a name, once each; of two, the longer."""
    found = [
        match[match.lastgroup or 0].strip(" .,-")
        for rule in rules
        for text in texts
        for match in re.finditer(rule, text, re.IGNORECASE)
    ]
    names = dict.fromkeys(name for name in found if name and not _NO_NAME.match(name))
    return tuple(name for name in names if not any(name != n and name in n for n in names))
