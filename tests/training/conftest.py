"""A tiny reference model and pairs for it."""

from pathlib import Path

import pytest
from tiny import make_tiny_model
from trained import CONFIG, PAIRS, pair, train_here, write_pairs

from dpo_pipeline.models.references import ModelRef, describe_model


@pytest.fixture(scope="module")
def ref(tmp_path_factory) -> ModelRef:
    return describe_model(make_tiny_model(tmp_path_factory.mktemp("model")), "tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("dataset"), [pair(i) for i in range(PAIRS)])


@pytest.fixture(scope="module")
def held_out(dataset) -> Path:
    """The same pairs, with others held out."""
    rows = [pair(i) | {"prompt_id": str(i % 6)} for i in range(100, 112)]
    return write_pairs(dataset, rows, "held_out.parquet")


@pytest.fixture(scope="module")
def undisturbed(ref, dataset, tmp_path_factory) -> Path:
    return train_here(ref, dataset, tmp_path_factory.mktemp("undisturbed"), CONFIG)
