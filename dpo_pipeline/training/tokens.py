"""From the pairs of a Parquet file to the tokens that are trained on, every row accounted for."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dpo_pipeline.errors import DataError
from dpo_pipeline.models.chat_templates import render_pair
from dpo_pipeline.store.tables import Row, read_rows
from dpo_pipeline.store.text import common_start
from dpo_pipeline.training.settings import TrainConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

COLUMNS = ["prompt", "chosen", "rejected"]
LESSON = 8  # tokens that are kept from where chosen and rejected part, wherever they are cut


def check_pairs(pairs: Path) -> None:
    """Check that every pair has its columns and a difference.

    Raises:
        DataError: A column is missing, there are no rows, or rows teach nothing.
    """
    if not pairs.is_file():
        raise DataError(f"No training pairs: {pairs.name} is missing. Run the save stage first.")
    rows = list(read_rows(pairs, COLUMNS))
    if not rows:
        raise DataError(f"{pairs.name} has no rows: there is nothing to train on.")
    same = [i for i, row in enumerate(rows) if row["chosen"] == row["rejected"]]
    if len(same) == len(rows):
        raise DataError(
            f"0 usable pairs: chosen equals rejected in all {len(rows)} rows. The model never said "
            "the original name, or already gives the new one; check identity.original_name."
        )
    if same:
        raise DataError(
            f"chosen equals rejected in {len(same)} of {len(rows)} pairs (rows {same[:5]}): they "
            "teach nothing, yet move the weights. Remove them."
        )


def tokenize_pairs(
    pairs: Path, tokenizer: "PreTrainedTokenizerBase", config: TrainConfig
) -> "Dataset":
    """Turn pairs into tokens the way TRL does; a base model gets the format it answered in.

    Answers are cut at config.completion_tokens, but not before they have parted.

    Returns:
        Columns prompt_ids, chosen_ids and rejected_ids, one row a pair, none dropped.

    Raises:
        DataError: Rows that max_length (tokens) would drop, or whose difference it cuts off.
    """
    from datasets import Dataset

    max_length = config.max_length
    rows = [tokenize_pair(row, tokenizer) for row in read_rows(pairs, COLUMNS)]
    longest = [i for i, row in enumerate(rows) if len(row["prompt_ids"]) >= max_length]
    if longest:
        raise DataError(
            f"{len(longest)} of {len(rows)} prompts (rows {longest[:5]}) fill train.max_length = "
            f"{max_length} tokens alone and would be dropped. Raise it, or lower pairs.max_length."
        )
    same = []
    for index, row in enumerate(rows):
        room = max_length - len(row["prompt_ids"])
        if row["chosen_ids"][:room] == row["rejected_ids"][:room]:
            same.append(index)
        if config.completion_tokens:
            parted = common_start(row["chosen_ids"], row["rejected_ids"])
            end = max(config.completion_tokens, parted + LESSON)
            row |= {side: row[side][:end] for side in ("chosen_ids", "rejected_ids")}
    if same:
        raise DataError(
            f"chosen and rejected have the same tokens within train.max_length = {max_length} in "
            f"{len(same)} of {len(rows)} pairs (rows {same[:5]}). Raise it, or lower "
            "pairs.max_length."
        )
    return Dataset.from_list(rows)


def tokenize_pair(row: Row, tokenizer: "PreTrainedTokenizerBase") -> dict[str, list[int]]:
    """Turn one pair into prompt_ids, chosen_ids and rejected_ids."""
    texts = render_pair(tokenizer, row["prompt"], (row["chosen"], row["rejected"]))
    plain = not tokenizer.chat_template
    ids = tokenizer(texts, add_special_tokens=plain, verbose=False)["input_ids"]
    # The completion starts where prompt and prompt + completion diverge.
    start = min(common_start(ids[0], side) for side in ids[1:])
    return {
        "prompt_ids": ids[0][:start],
        "chosen_ids": ids[1][start:],
        "rejected_ids": ids[2][start:],
    }


def read_held(
    answers: Path, tokenizer: "PreTrainedTokenizerBase", limit: int | None
) -> list[tuple[list[int], list[int]]]:
    """Turn the reference's answers to general questions into tokens, cut at the limit.

    Of one that it did not end itself, no end is held.
    """
    rows = []
    for row in read_rows(answers, ["messages", "response", "finish", "tokens"]):
        said = [{"role": "assistant", "content": row["response"]}]
        pair = {"prompt": row["messages"], "chosen": said, "rejected": said}
        ids = tokenize_pair(pair, tokenizer)
        length = row["tokens"] + (row["finish"] == "stop")
        answer = ids["chosen_ids"][: min(length, limit or length)]
        if answer:
            rows.append((ids["prompt_ids"], answer))
    return rows


class MicroBatch(NamedTuple):
    """What goes through the model at once, at most."""

    pairs: int
    tokens: int


def micro_batch(
    tokens: "Dataset", pairs: int, budget: int, max_length: int, *, packed: bool
) -> MicroBatch:
    """Choose how many of the pairs of an optimizer step go through the model at once.

    The largest divisor of `pairs`, those of a process, whose longest fit the budget (tokens), at
    least 1. Packed, shared tokens count once; else every row is padded to the longest.
    """
    costs = []
    for row in tokens:
        sides = [(row["prompt_ids"] + row[k])[:max_length] for k in ("chosen_ids", "rejected_ids")]
        lengths = [len(side) for side in sides]
        costs.append(sum(lengths) - common_start(*sides) if packed else 2 * max(lengths))
    costs.sort(reverse=True)
    for size in range(pairs, 0, -1):
        needed = sum(costs[:size]) if packed else costs[0] * size
        if pairs % size == 0 and (needed <= budget or size == 1):
            return MicroBatch(size, needed)
    raise AssertionError("one pair always fits")
