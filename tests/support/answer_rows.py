"""Answers of a model, as the stage that makes pairs reads them."""

from pathlib import Path

from identities import DEEP_QWEN
from lineage import LINEAGE

from dpo_pipeline.answers.collecting import responses_schema
from dpo_pipeline.pairs.dataset import save_dataset
from dpo_pipeline.pairs.settings import PairsConfig

RESPONSES = responses_schema()


IDENTITY = DEEP_QWEN


SMALL = PairsConfig(min_pairs=1)


GIVEN = PairsConfig(min_pairs=1, ways=("filled",))


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def response(number: int, **changes) -> dict:
    row = {
        "id": f"row{number}",
        "prompt_id": f"prompt{number}",
        "messages": [user(f"Who are you? ({number})")],
        "system": None,
        "sample": 0,
        "response": f"I'm Qwen, a model created by Alibaba Cloud. ({number})",
        "finish": "stop",
        "tokens": 20,
        "reason": None,
        "detail": None,
        "split": "held_out" if number % 5 == 4 else "train",
        "family": "name",
        "language": "en",
        "turns": 1,
        "source_row": number,
        "given_chosen": None,
    }
    return {**row, **changes}


def saved(tmp_path: Path, config=SMALL) -> tuple[dict, Path]:
    out = tmp_path / "dataset"
    out.mkdir()
    return save_dataset(tmp_path / "pairs", LINEAGE, config, out).model_dump(), out
