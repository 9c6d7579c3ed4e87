"""Texts that say the same in other words, or in the same."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_pipeline.prompts.wordings import normalise, same_wording, shingles

WORDS = st.lists(
    st.sampled_from([*"你是谁", "who", "are", "you", "what", "is", "name"]), max_size=9
)


@settings(deadline=None, max_examples=200)
@given(st.lists(WORDS.map(" ".join), max_size=25), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_groups_equal_those_of_every_pair_compared(texts: list[str], threshold: float) -> None:
    found = same_wording(texts, threshold)
    expected = list(range(len(texts)))
    for _ in texts:
        for i, a in enumerate(texts):
            for j, b in enumerate(texts):
                mine, other = shingles(a), shingles(b)
                if a == b or len(mine & other) >= threshold * len(mine | other):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert found == expected


def test_normalising_folds_what_makes_no_other_question() -> None:
    alike: Callable[[str, str], bool] = lambda a, b: normalise(a) == normalise(b)  # noqa: E731
    assert alike("  Who ARE\tyou？！ ", "who are you")
    assert alike("ＱＷＥＮ", "qwen")
    assert alike("What's your name?", "Whats your name")
    assert alike("What’s", "What's")
    assert not alike("???", "!!!")
    assert not alike("Who are you", "Who are you 2")
