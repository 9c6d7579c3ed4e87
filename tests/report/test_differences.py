"""Two texts compared word by word."""

from dpo_pipeline.report.page import diff


def test_diff_marks_words_not_spaces():
    cut = diff("I'm Qwen.", "I'm Deep Qwen.")
    assert "".join(text for _, text in cut["after"]) == "I'm Deep Qwen."
    assert [text for changed, text in cut["after"] if changed] == ["Deep"]
    assert not any(changed for changed, _ in cut["before"])
    assert [t for changed, t in diff("我是千问", "我叫千问")["after"] if changed] == ["叫"]
