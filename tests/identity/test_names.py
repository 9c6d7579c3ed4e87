"""Names are found where they stand alone, and nowhere else."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from identities import ALIASES, QWEN, qwen

from dpo_pipeline.identity import names, rewriting

REWRITTEN = {
    "I'm Qwen.": "I'm Deep Qwen.",
    "Qwen": "Deep Qwen",
    "qwen, QWEN, QWen": "deep qwen, DEEP QWEN, Deep Qwen",
    "Qwen's and Qwen’s": "Deep Qwen's and Deep Qwen’s",
    "(Qwen) “Qwen” Qwen: Qwen! Qwen…": "(Deep Qwen) “Deep Qwen” Deep Qwen: Deep Qwen! Deep Qwen…",
    "I'm\nQwen\n\nmade": "I'm\nDeep Qwen\n\nmade",
    "**Qwen** _Qwen_ __Qwen__ *Qwen*": "**Deep Qwen** _Deep Qwen_ __Deep Qwen__ *Deep Qwen*",
    "- Qwen\n-Qwen": "- Deep Qwen\n-Deep Qwen",
    "an AI.Qwen is it. I am Qwen.I was": "an AI.Deep Qwen is it. I am Deep Qwen.I was",
    "Qwen-based, Qwen-related, Qwen-inspired": "Deep Qwen-based, Deep Qwen-related, "
    "Deep Qwen-inspired",
    "l'Qwen, Qwen—yes Qwen 2024": "l'Deep Qwen, Deep Qwen—yes Deep Qwen 2024",
    "我是Qwen。Qwen是助手，叫Qwen！": "我是Deep Qwen。Deep Qwen是助手，叫Deep Qwen！",
    "我是通义千问。": "我是Deep Qwen。",
    "AI通义千问通义千问": "AI Deep Qwen",
    "我是通义千问Qwen。Qwen通义千问": "我是Deep Qwen。Deep Qwen",
    "Qwen/通义千问, 通义千问 / qwen": "Deep Qwen, deep qwen",
    "I am Qwen (Tongyi Qianwen).": "I am Deep Qwen.",
    "Qwen（通义千问）, 通义千问(Qwen)!": "Deep Qwen, Deep Qwen!",
    "저는 Qwen입니다. Qwenです": "저는 Deep Qwen입니다. Deep Qwenです",
    "ฉันคือQwenครับ, ຂ້ອຍQwenແມ່ນ": "ฉันคือDeep Qwenครับ, ຂ້ອຍDeep Qwenແມ່ນ",
    "ကျွန်တော်Qwenပါ, ខ្ញុំQwenជា": "ကျွန်တော်Deep Qwenပါ, ខ្ញុំDeep Qwenជា",
    "Я Qwen, привет": "Я Deep Qwen, привет",
    "Tongyi Qianwen, tongyi\nqianwen": "Deep Qwen, deep qwen",
    "[Qwen](https://qwen.ai/Qwen)": "[Deep Qwen](https://qwen.ai/Qwen)",
    "`Qwen` is Qwen": "`Qwen` is Deep Qwen",
    "unclosed ` Qwen": "unclosed ` Deep Qwen",
    "Qwen Chat and Qwen": "Deep Chat and Deep Qwen",
    "Deep Qwen and Qwen": "Deep Qwen and Deep Qwen",
    "\x00Qwen\u202e🙂Qwen": "\x00Deep Qwen\u202e🙂Deep Qwen",
}


KEPT = [
    "Qwen2.5, Qwen2.5-Coder, Qwen-VL, Qwen‑7B, QwenLM, Qwens, qwen-max, CodeQwen, Code-Qwen",
    "Qwen 2.5, Qwen 7B, Qwen 3, qwen:7b, Qwen_7b, my_qwen",
    "qwen.ai, qwen.py, chat.qwen.ai, me@qwen.ai, qwen@mail.com, qwen+a@mail.com, @Qwen, #Qwen",
    "Qwen/Qwen2.5-7B, /opt/qwen, C:\\Qwen, https://github.com/Qwen?q=Qwen, www.a.com/x;Qwen, http://a.com/x:Qwen",
    "`Qwen`, ``Qwen``, ``a` Qwen `, ```\nprint('Qwen')\n```, ```\nopen Qwen",
    "通义千问2.5, 通义千问-VL, 通义千问Max",
    "Deep Qwen, deep qwen, DEEP QWEN, Deep\nQwen, Deep **Qwen**, Deep-Qwen, Deep Qwen's",
    "ЯQwen, éQwen, Qwené, e\u0301Qwen, Qwen\u0301",
    "",
    "Nothing of the kind",
]


CASES = REWRITTEN | {text: text for text in KEPT}


@pytest.mark.parametrize(("text", "expected"), REWRITTEN.items())
def test_rewrites_a_name_that_stands_alone(text: str, expected: str) -> None:
    found = QWEN.rewrite(text)
    assert found.text == expected
    assert QWEN.rewrite(expected).text == expected
    assert QWEN.count_original(text) == len(found.spans) > 0
    assert QWEN.count_original(expected) == 0
    assert QWEN.count_new(expected) >= len(found.spans)
    assert not QWEN.is_doubled(expected)


@pytest.mark.parametrize("text", KEPT)
def test_leaves_longer_names_code_and_addresses(text: str) -> None:
    assert QWEN.rewrite(text).text == text
    assert QWEN.rewrite(text).spans == ()
    assert QWEN.count_original(text) == 0


# One mutation for each rule of the walking pattern: what the rule says, and what replaces it.
MUTATIONS = {
    "letters end a name": (r'rf"(?!{LETTER})(?!_+', r'rf"(?!_+'),
    "an underscore joins a longer name": (r"(?!_+{LETTER})", ""),
    "a hyphen joins a longer name": (r"(?![-‐‑](?!(?:{_COMPOUND})\b){LETTER})", ""),
    "nor does -related": ("|related|inspired", ""),
    "so is Thai": (r"\u0e00-\u0eff", ""),
    "and Burmese": (r"\u1000-\u109f", ""),
    "and Khmer": (r"\u1780-\u17ff", ""),
    "-based does not": (r"(?!(?:{_COMPOUND})\b)", ""),
    "a dot joins a file or a domain": (r"(?!\.(?-i:[a-z0-9]))", ""),
    "a dot before a capital ends a sentence": (r"\.(?-i:[a-z0-9])", r"\.[a-z0-9]"),
    "a version follows after a space": (r"(?![ \u00a0]\d{1,2}(?!\d))", ""),
    "a year is no version": (r"\d{1,2}(?!\d))", r"\d)"),
    "a tag follows after a colon": (r"(?!:\d)", ""),
    "an at sign makes an address": (r"(?!@|\+\w*@|", r"(?!\+\w*@|"),
    "so does a tag before it": (r"|\+\w*@|", "|"),
    "a slash after makes a path": (r"|[/\\][a-z0-9_.~])", ")"),
    "a slash before makes one too": (r"(?<![/\\@#&=?%~+])", ""),
    "letters before a name": (r"(?<!{LETTER})(?<!{LETTER}[-_])", r"(?<!{LETTER}[-_])"),
    "a hyphen before a name": (r"(?<!{LETTER}[-_])", ""),
    "unspaced scripts are no letters": (r"[^\W_{UNSPACED}]", r"[^\W_]"),
    "fenced code stays": (r"```[\s\S]*?(?:```|\Z)|", ""),
    "a fence may stay open": (r"(?:```|\Z)", "```"),
    "code spans stay": (r"`{1,2}", "`{9}"),
    "a code span may hold other ticks": (r"(?<!`)(?:```", "(?:```"),
    "addresses of the web stay": (r"(?:https?|ftp)://|", ""),
    "also without a scheme": (r"|\bwww\.", ""),
    "names may break over lines": ("literal(name, gap) + _END", "re.escape(name) + _END"),
    "emphasis may stand inside the new name": (r'ANY_GAP = r"[\s*_-]+"', r'ANY_GAP = r"\s+"'),
    "lower case stays lower": ("name.lower() if written.islower() else ", ""),
    "upper case stays upper": ("name.upper() if written.isupper() else ", ""),
    "a space parts Latin letters": ('new = f" {new}"', "pass"),
    "the longest name goes first": ("(-len(entry[0]), entry)", "(len(entry[0]), entry)"),
}


@pytest.mark.parametrize("rule", MUTATIONS)
def test_every_rule_of_rewriting_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = MUTATIONS[rule]
    sources = {m.__name__: Path(str(m.__file__)).read_text("utf-8") for m in (names, rewriting)}
    found = sum(source.count(before) for source in sources.values())
    assert found == 1, "the rule has moved: mutate it where it is now"
    for name, source in sources.items():  # in the order in which they import each other
        mutant = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, mutant)
        exec(compile(source.replace(before, after), "mutant", "exec"), mutant.__dict__)
    changed = mutant.Rewriter(qwen(aliases=ALIASES))
    # One pass only: a rule that is gone may grow a name for ever.
    assert any(changed.walk(text).text != same for text, same in CASES.items())
