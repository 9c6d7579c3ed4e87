"""How a question is worded, and which others are worded alike."""

import math
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise

from dpo_pipeline.identity.names import UNSPACED

TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_APOSTROPHE = re.compile(r"(?<=\w)['’ʼ](?=\w)")
_TRAILING = re.compile(r"[\s.,;:!?…。、~'\"’”)\]]+$")


def normalise(text: str) -> str:
    """Fold what makes no other question: width, case, spacing, apostrophes, closing marks."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    folded = _APOSTROPHE.sub("", folded)
    return _TRAILING.sub("", folded) or folded


def shingles(text: str) -> frozenset[str]:
    """Words and pairs of neighbouring words; single signs in scripts without spaces."""
    words = TOKEN.findall(text) or [text]
    return frozenset(chain(words, (f"{a} {b}" for a, b in pairwise(words))))


def _rarest_first(texts: Mapping[str, int]) -> "tuple[dict[int, int], dict[int, array[int]]]":
    """Count the shingles of each text, and number those that another text has too."""
    frequency = Counter(chain.from_iterable(map(shingles, texts)))
    order = sorted((count, shingle) for shingle, count in frequency.items() if count > 1)
    rank = {shingle: i for i, (_, shingle) in enumerate(order)}
    sizes, ranked = {}, {}
    for text, i in texts.items():
        found = shingles(text)
        sizes[i] = len(found)
        ranked[i] = array("I", sorted(rank[shingle] for shingle in found if shingle in rank))
    return sizes, ranked


def same_wording(texts: Sequence[str], threshold: float) -> list[int]:
    """Group texts whose shingles have a Jaccard similarity of at least the threshold.

    Exact, by prefix filtering: two sets that similar share one of their few rarest shingles, so
    only those are looked up.

    Args:
        texts: Normalised texts.
        threshold: Least |A ∩ B| / |A ∪ B|, from 0 to 1.
    Returns:
        For each text the index of the first text of its group; a group is closed under similarity.
    Source: Bayardo, Ma and Srikant 2007, "Scaling up all pairs similarity search".
    """
    first: dict[str, int] = {}
    groups = [first.setdefault(text, i) for i, text in enumerate(texts)]
    sizes, ranked = _rarest_first(first)

    def root(i: int) -> int:
        while groups[i] != i:
            groups[i] = i = groups[groups[i]]
        return i

    def least_shared(size: int, other: int) -> int:
        return math.ceil(threshold / (1 + threshold) * (size + other) - 1e-9)

    # Per shingle, members by group, since one similar member settles a whole group.
    postings: dict[int, dict[int, list[int]]] = defaultdict(dict)
    for i in sorted(ranked, key=lambda i: (sizes[i], i)):
        mine, size, tried = set(ranked[i]), sizes[i], set()
        alone = size - len(mine)  # shingles of no other text: the rarest, and of no use
        shortest = math.ceil(threshold * size - 1e-9)
        enough = {n: least_shared(size, n) for n in range(shortest, size + 1)}
        for place, shingle in enumerate(ranked[i][: max(0, size - shortest + 1 - alone)], alone):
            posting = postings.get(shingle, {})
            for group in [group for group in posting if groups[group] != group]:
                members = posting.pop(group)
                posting.setdefault(root(group), []).extend(members)
            for group in [group for group in posting if group != root(i)]:
                for j in posting[group]:
                    least = enough.get(sizes[j], size + 1)
                    if least <= size - place and j not in tried:
                        tried.add(j)
                        if len(mine.intersection(ranked[j])) >= least:
                            a, b = sorted((root(i), root(j)))
                            groups[b] = a
                            break
        # Whatever comes later is at least as long, so it shares one of even fewer.
        for shingle in ranked[i][: max(0, size - least_shared(size, size) + 1 - alone)]:
            postings[shingle].setdefault(root(i), []).append(i)
    return [root(i) for i in range(len(texts))]
