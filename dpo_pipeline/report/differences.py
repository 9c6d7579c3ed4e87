"""Two texts compared word by word."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby

from dpo_pipeline.report.words import visible

Runs = dict[str, list[tuple[bool, str]]]  # side -> (changed, text), in order

_WORD = re.compile(r"\s+|[぀-ヿ㐀-鿿가-힣]|[^\W_]+|.", re.DOTALL)


def diff(before: str, after: str) -> Runs:
    """Cut two texts into runs of (changed, text), word by word."""
    a, b = _WORD.findall(before), _WORD.findall(after)
    cut: Runs = {"before": [], "after": []}
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, piece in (("before", a[i1:i2]), ("after", b[j1:j2])):
            cut[side] += [(tag != "equal" and not word.isspace(), visible(word)) for word in piece]
    return {side: _join_runs(words) for side, words in cut.items()}


def _join_runs(words: Sequence[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Join words into runs; a space between two changed words changed with them."""
    changed = [c for c, _ in words]
    for i in range(1, len(words) - 1):
        changed[i] = changed[i] or (words[i][1].isspace() and words[i - 1][0] and words[i + 1][0])
    joined = groupby(zip(changed, words, strict=True), key=lambda pair: pair[0])
    return [(c, "".join(word for _, (_, word) in run)) for c, run in joined]
