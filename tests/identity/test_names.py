"""Names are rewritten where they stand alone, once, and nowhere else."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity import names, rewriting
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.placeholders import fill
from dpo_pipeline.identity.rewriting import Rewrite, Rewriter
from dpo_pipeline.identity.settings import IdentityConfig

ALIASES = {"通义千问": "Deep Qwen", "Tongyi Qianwen": "Deep Qwen", "Qwen Chat": "Deep Chat"}
QWEN = IdentitySpec(IdentityConfig(aliases=ALIASES))


def spec(**fields: object) -> IdentitySpec:
    plain = {"aliases": {}, "developer": None, "developer_aliases": ()}
    return IdentitySpec(IdentityConfig.model_validate(plain | fields))


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


def test_counts_and_locates_every_edit() -> None:
    text = "`Qwen` Qwen2 Deep Qwen: I'm Qwen, 通义千问, qwen. https://Qwen.ai"
    found = QWEN.rewrite(text)
    assert found.counts == {
        "kept_code": 1,
        "kept_longer": 1,
        "kept_new": 1,
        "name": 2,
        "alias:通义千问": 1,
        "kept_url": 1,
    }
    edits = [(text[a:b], found.text[c:d]) for a, b, c, d in found.spans]
    assert edits == [("Qwen", "Deep Qwen"), ("通义千问", "Deep Qwen"), ("qwen", "deep qwen")]


def test_any_case_can_be_turned_off() -> None:
    llama = spec(original_name="Llama", new_name="Alpaca", any_case=False)
    assert llama.rewrite("Llama is no llama, LLAMA").text == "Alpaca is no llama, LLAMA"


def test_a_listed_spelling_goes_before_the_case_rule() -> None:
    listed = spec(aliases={"qwen": "deepqwen", "Qwen Chat": "Deep Chat"})
    assert listed.rewrite("qwen QWEN Qwen Chat").text == "deepqwen DEEP QWEN Deep Chat"


def test_protected_names_stay() -> None:
    kept = spec(protected=("Qwen Team", "Qwen Chat"))
    assert kept.rewrite("Qwen by the Qwen Team, qwen chat").text == (
        "Deep Qwen by the Qwen Team, qwen chat"
    )


def test_developer_changes_only_when_asked() -> None:
    text = "I'm Qwen, made by Alibaba Cloud (阿里云), not AlibabaCloud; ALIBABA CLOUD's."
    assert "made by Alibaba Cloud (阿里云)" in QWEN.rewrite(text).text
    acme = spec(
        developer="Alibaba Cloud", developer_aliases=("阿里云",), new_developer="Alibaba Cloud Lab"
    )
    expected = "I'm Deep Qwen, made by Alibaba Cloud Lab, not AlibabaCloud; ALIBABA CLOUD LAB's."
    assert acme.rewrite(text).text == expected
    assert acme.rewrite(expected).text == expected
    assert acme.rewrite(text).counts == {"name": 1, "developer": 2}
    assert acme.count_original(expected) == 0
    assert acme.names_developer(text)
    assert not acme.names_developer("made by Alibaba Cloud Labs", after=True)
    assert acme.names_developer(expected, after=True)
    assert QWEN.names_developer("我由阿里云开发", after=True)
    assert not QWEN.names_developer("made by OpenAI")
    assert not spec().names_developer("made by Alibaba Cloud")


def test_a_developer_that_holds_the_name_stays_whole() -> None:
    team = spec(developer="Qwen Team")
    assert team.rewrite("Qwen, by the Qwen Team").text == "Deep Qwen, by the Qwen Team"
    moved = spec(developer="Acme", new_developer="Qwen Labs")
    assert moved.rewrite("Qwen by Acme").text == "Deep Qwen by Qwen Labs"
    assert moved.rewrite("Deep Qwen by Qwen Labs").spans == ()


@pytest.mark.parametrize(
    ("original", "new", "text", "expected"),
    [
        ("Deep Qwen", "Qwen", "Deep Qwen, Deep Deep Qwen", "Qwen, Qwen"),
        ("Qwen Max", "Qwen", "Qwen Max Max, Qwen", "Qwen, Qwen"),
        ("C++ (Bot)", "C.*", "I am C++ (Bot)!", "I am C.*!"),
        ("a.b", "$1 \\g".replace("\\", ""), "axb a.b", "axb $1 g"),
        ("千问", "通义千问", "千问和通义千问", "通义千问和通义千问"),
        ("Qwen", "千问", "I am Qwen.", "I am 千问."),
        ("क्वेन", "गहन", "मैं क्वेन हूँ। क्वेन, क्वेनों", "मैं गहन हूँ। गहन, क्वेनों"),
        ("Zoë", "Mia", "Zoe\u0308, Zoë, Zoë\u0301", "Mia, Mia, Zoë\u0301"),
        ("Zoe\u0308", "Mia", "ZOË zoe", "MIA zoe"),
        ("GPT-4", "Nova", "GPT-4 GPT-4o GPT-4-turbo GPT-4.1", "Nova GPT-4o GPT-4-turbo GPT-4.1"),
    ],
)  # fmt: skip
def test_any_pair_of_names(original: str, new: str, text: str, expected: str) -> None:
    pair = spec(original_name=original, new_name=new)
    found = pair.rewrite(text)
    assert found.text == expected
    assert pair.rewrite(expected).text == expected
    for start, end, new_start, new_end in found.spans:
        assert text[start:end] != expected[new_start:new_end]


def test_a_rewrite_that_never_settles_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    grow = lambda self, text: Rewrite(f"Qwen {text}", ((0, 0, 0, 5),), {"name": 1})  # noqa: E731
    monkeypatch.setattr(Rewriter, "walk", grow)
    with pytest.raises(DataError, match="rewriting 'I am Qwen' does not end"):
        QWEN.rewrite("I am Qwen")
    monkeypatch.undo()
    shrinks = spec(original_name="Deep Qwen", new_name="Qwen")
    assert shrinks.rewrite("Deep " * 200 + "Qwen").text == "Qwen"


def test_sees_doubled_names() -> None:
    for text in (
        "I'm Deep Deep Qwen",
        "Deep Qwen Qwen",
        "deep  deep qwen",
        "Deep Qwen (Deep Qwen)",
        "Deep Qwen Deep Qwen",
        "Deep Qwen/Deep Qwen",
        "Deep Qwen（Deep Qwen）",
    ):
        assert QWEN.is_doubled(text), text
    for text in ("Deep Qwen, Qwen", "Deep Qwen", "Qwen Qwen", "Deep, Deep Qwen"):
        assert not QWEN.is_doubled(text), text
    assert spec(new_name="Bob").is_doubled("I am Bob Bob")


def test_counts_the_new_name_where_it_stands_alone() -> None:
    assert QWEN.count_new("Deep Qwen, deep  qwen; Deep **Qwen**. 我是Deep Qwen。") == 4
    assert QWEN.count_new("I am Deep-Qwen.") == 1
    assert QWEN.count_new("Deep Qwen2, xDeep Qwen, Deep QwenLM, Qwen") == 0


@pytest.mark.parametrize(
    "prompt",
    [
        "Who makes Qwen?",
        "What is Qwen2.5?",
        "Qwen是谁开发的？",
        "who develops QWEN",
        "通义千问是什么？",
        "Can you tell me who made Qwen?",
        "Do you know Qwen?",
        "Could you please explain what Qwen is?",
        "Have you ever heard of Qwen?",
        "What do you think of Qwen?",
        "你了解通义千问吗？",
        "你能介绍一下通义千问吗？",
    ],
)
def test_third_party_asks_about_a_model_by_name(prompt: str) -> None:
    assert QWEN.is_third_party(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "Are you Qwen?",
        "Hi Qwen, who made the moon?",
        "Qwen: what is new?",
        "What is the capital of Peru, Qwen?",
        "Is this Qwen?",
        "Am I talking to Qwen?",
        "你是Qwen吗？",
        "我在和Qwen聊天吗？",
        "Bist du Qwen?",
        "Ben jij Qwen?",
        "Can you tell me whether you are Qwen?",
        "Do you know if your name is Qwen?",
        "你知道你是通义千问吗？",
        "你能介绍一下自己吗，通义千问？",
        "Who makes ChatGPT?",
        "Hello",
    ],
)
def test_self_is_no_third_party(prompt: str) -> None:
    assert not QWEN.is_third_party(prompt)


def test_fills_placeholders_with_either_identity() -> None:
    text = "{{name}} {{ NAME }} {name} <NAME> [NAME], {{author}} {DEVELOPER} <AUTHOR> [DEVELOPER]"
    assert fill(text, QWEN.config) == ", ".join(
        (" ".join(["Qwen"] * 5), " ".join(["Alibaba Cloud"] * 4))
    )
    moved = spec(developer="Alibaba Cloud", new_developer="Acme")
    assert fill("{{name}} by {{author}}", moved.config, after=True) == "Deep Qwen by Acme"
    assert fill("{{name}} by {{author}}", moved.config) == "Qwen by Alibaba Cloud"
    assert fill("<name> [name] {x} <b>", QWEN.config) == "<name> [name] {x} <b>"


@pytest.mark.parametrize("text", ["{{foo}}", "a {{ user.name }}", "{{\n}}", "{{name}} {{ x }}"])
def test_refuses_unknown_placeholders(text: str) -> None:
    with pytest.raises(DataError, match="unknown placeholder"):
        fill(text, QWEN.config)


def test_refuses_a_developer_that_is_not_configured() -> None:
    with pytest.raises(DataError, match=r"identity\.developer"):
        fill("made by {{author}}", spec().config)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"new_name": "Qwen"}, "nothing to learn"),
        ({"new_name": "QWEN"}, "nothing to learn"),
        ({"aliases": {"Deep Qwen": "X"}}, "nothing to learn"),
        ({"aliases": {"Q": "qwen"}}, "nothing to learn"),
        ({"new_name": " "}, "blank"),
        ({"original_name": ""}, "blank"),
        ({"new_name": "Deep\nQwen"}, "stray spaces or line breaks"),
        ({"new_name": "Deep`Qwen"}, "no name may"),
        ({"new_name": "<|im_end|>"}, "no name may"),
        ({"new_name": "Deep\u200bQwen"}, "no name may"),
        ({"protected": ("qwen",)}, "is the original name"),
        ({"new_developer": "alibaba cloud"}, "equals developer"),
        ({"new_developer": "Acme", "developer": None}, "needs developer"),
        ({"new_developer": "Acme", "developer": "Qwen"}, "both original name and developer"),
    ],
)
def test_refuses_identities_that_make_no_sense(fields: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        IdentityConfig.model_validate(fields)


# Names over a mean alphabet, related to each other: one holds the other, or part of it.
WORD = st.text(alphabet="abAQ-.+_#1问答İſß*ée\u0301क्े", min_size=1, max_size=3)
NAME = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
GLUE = st.sampled_from(
    [" ", "\n", ", ", "**", "_", "-", "`", "。", "/", "https://", "@", "'s", ".", "```", "(", " 2"]
)


@st.composite
def identities_and_texts(draw: st.DrawFn) -> tuple[IdentityConfig, str]:
    original, new, alias, developer, new_developer = (draw(NAME) for _ in range(5))
    part = draw(WORD)
    original, new = draw(
        st.sampled_from(
            [
                (original, new),
                (original, f"{part} {original}"),
                (original, f"{part}{original}"),
                (f"{part} {new}", new),
                (f"{new} {part}", new),
            ]
        )
    )
    try:
        config = IdentityConfig(
            original_name=original,
            new_name=new,
            aliases=draw(st.sampled_from([{}, {alias: new}, {alias: new_developer}])),
            developer=developer,
            developer_aliases=(),
            new_developer=draw(st.sampled_from([None, new_developer])),
            any_case=draw(st.booleans()),
        )
    except ValidationError:
        assume(False)
        raise
    # Names in a row count as one, so that 问 can never become 问问.
    assume(all(new.replace(name, "") for name in config.names for new in config.names.values()))
    names = (original, new, alias, developer, new_developer)
    words = [word for name in names for word in name.split()]
    known = st.sampled_from([*names, *words, original.upper(), new.lower()])
    return config, "".join(draw(st.lists(st.one_of(known, GLUE, WORD), max_size=14)))


@settings(deadline=None, max_examples=150)
@given(identities_and_texts())
@example((IdentityConfig(), "Deep Qwen qwen 通义千问Qwen"))
def test_rewriting_is_idempotent_and_spans_tell_all(case: tuple[IdentityConfig, str]) -> None:
    config, text = case
    both = IdentitySpec(config)
    found = both.rewrite(text)
    again = both.rewrite(found.text)
    assert again.text == found.text
    assert again.spans == ()
    assert both.count_original(found.text) == 0
    old = new = 0
    for start, end, new_start, new_end in found.spans:
        assert old <= start < end or new_start < new_end
        assert text[old:start] == found.text[new:new_start]
        old, new = end, new_end
    assert text[old:] == found.text[new:]


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_the_name_between_any_two_sentences_is_rewritten(before: str, after: str) -> None:
    assume("`" not in before)
    found = QWEN.rewrite(f"{before}. I'm Qwen, yes. {after}").text
    assert "I'm Deep Qwen, yes." in found


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
    "lower case stays lower": ("new.lower() if written.islower() else ", ""),
    "upper case stays upper": ("new.upper() if written.isupper() else ", ""),
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
    changed = mutant.Rewriter(IdentityConfig(aliases=ALIASES))
    # One pass only: a rule that is gone may grow a name for ever.
    assert any(changed.walk(text).text != same for text, same in CASES.items())
