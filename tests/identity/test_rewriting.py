"""Names are rewritten once, and nothing else."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from identities import DEEP_QWEN, QWEN, spec
from pydantic import ValidationError

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.rewriting import Rewrite, Rewriter, fill
from dpo_pipeline.identity.settings import IdentityConfig


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
@example((DEEP_QWEN, "Deep Qwen qwen 通义千问Qwen"))
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
