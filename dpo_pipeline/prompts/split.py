"""Which prompts are held out: whole wordings, so that no question is on both sides."""

import math
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise

from dpo_pipeline.identity.names import UNSPACED
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.store.digests import digest_of

# Split that a row or a file names -> the side it means.
SPLITS = {"train": "train"} | dict.fromkeys(
    ("held_out", "test", "validation", "valid", "val", "dev", "eval"), "held_out"
)
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
_APOSTROPHE = re.compile(r"(?<=\w)['’ʼ](?=\w)")
_TRAILING = " .,;:!?…。、~'\"’”)]"


def normalise(text: str) -> str:
    """Fold what makes no other question: width, case, spacing, apostrophes, closing marks."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    folded = _APOSTROPHE.sub("", folded)
    return folded.rstrip(_TRAILING) or folded


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
    """Group normalised texts whose shingles have at least a threshold of Jaccard similarity.

    Exact, by prefix filtering: two sets that similar share one of their few rarest shingles, so
    only those are looked up.

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


def read_split(value: object) -> str | None:
    """Return the side of the split that a row names: train, held_out, or null where it is blank.

    Raises:
        Refused: It names neither.
    """
    name = "" if value is None else str(value).strip().casefold()
    if name and name not in SPLITS:
        raise Refused("unknown_split", f"split {value!r} is none of {', '.join(SPLITS)}")
    return SPLITS.get(name)


def split_wordings(
    questions: Sequence[str], own: Sequence[str | None], config: PromptsConfig
) -> list[tuple[int, str]]:
    """Put normalised questions on the two sides of the split, all of one wording on the same.

    Where rows name both sides as their own, a wording goes where its rows say, held out before
    train. Of the others, drawn in an order that follows the seed, whole wordings are held out as
    long as they fit the share.

    Returns:
        For each question the index of the first of its wording, and "train" or "held_out".
    """
    wordings = same_wording(questions, config.near_duplicate)
    sides: dict[int, str] = {}
    if {"train", "held_out"} <= set(own):  # one and the same side for all tells nothing
        for wording, side in zip(wordings, own, strict=True):
            if side and sides.get(wording) != "held_out":
                sides[wording] = side
    free = Counter(wording for wording in wordings if wording not in sides)
    room = config.held_out * free.total()
    if config.held_out and not sides and len(free) > 1:
        room = max(room, min(free.values()))
    for wording in sorted(free, key=lambda i: digest_of([config.seed, questions[i]])):
        sides[wording] = "held_out" if free[wording] <= room else "train"
        room -= free[wording] * (sides[wording] == "held_out")
    return [(wording, sides[wording]) for wording in wordings]
