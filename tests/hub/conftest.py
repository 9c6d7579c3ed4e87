"""What a Hub on this machine is given to hold."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import make_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "m", "llama")


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a", "你好"]}), folder / "train.parquet")
    return folder
