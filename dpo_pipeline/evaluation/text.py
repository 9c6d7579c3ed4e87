"""Answers as words: distances between them, and how varied they are."""

import math
import re
from collections import Counter

_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힣]|\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and punctuation marks; Chinese, Japanese and Korean by the character."""
    return _WORD.findall(text)


def edit_distance(text: str, ideal: str) -> int:
    """Fewest words to insert, delete or replace to turn one text into the other."""
    if text == ideal:
        return 0
    a, b = words(text), words(ideal)
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            diagonal, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other)),
            )
    return row[-1]


def ngram_entropy(text: str) -> float:
    """Entropy of bigrams and trigrams, weighted 1:2, bits; repetition brings it down.

    Source: Meng et al. 2022, section 3.4, arXiv:2202.05262 (there named GE).
    """
    tokens = words(text)

    def entropy(n: int) -> float:
        grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
        total = sum(grams.values())
        return -sum(c / total * math.log2(c / total) for c in grams.values()) if total else 0.0

    return (entropy(2) + 2 * entropy(3)) / 3
