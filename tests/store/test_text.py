"""Text for people and for files."""

from dpo_pipeline.store.text import excerpt


def test_excerpts_are_one_short_line():
    assert excerpt("a\n b  c") == "a b c"
    assert excerpt("x" * 200) == "x" * 119 + "…"
