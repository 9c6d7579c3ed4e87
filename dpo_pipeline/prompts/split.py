"""Which prompts are held out: whole wordings, so that no question is on both sides."""

from collections import Counter
from collections.abc import Sequence

from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.wordings import same_wording
from dpo_pipeline.store.digests import digest_of

# Split that a row or a file names -> the side it means.
SPLITS = {"train": "train"} | dict.fromkeys(
    ("held_out", "test", "validation", "valid", "val", "dev", "eval"), "held_out"
)


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
    """Put questions on the two sides of the split, all of one wording on the same.

    Where rows name both sides, a wording goes where its rows say, held out before train. Of the
    others, drawn in an order that follows the seed, whole wordings are held out as long as they
    fit the share.

    Args:
        questions: Normalised.
        own: The side that each row names, or null.
        config: Share, similarity and seed.
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
