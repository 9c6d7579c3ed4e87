"""Tiny models, and pairs built of rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answer_rows import IDENTITY, RESPONSES, SMALL
from tiny import make_tiny_model

from dpo_pipeline.models.references import describe_model
from dpo_pipeline.pairs.rewriting import build_pairs


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("models")
    return {
        arch: describe_model(make_tiny_model(folder / arch, arch), f"/home/me/tiny-{arch}")
        for arch in ("qwen2", "llama", "gpt2")
    }


@pytest.fixture
def build(models, tmp_path):
    """Build pairs of rows; return counts, pairs and quarantine."""

    def run(rows, config=SMALL, identity=IDENTITY, arch="qwen2", name="pairs", told=None):
        path = tmp_path / "responses.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), path)
        out = tmp_path / name
        out.mkdir()
        instructed = tmp_path / "instructed.parquet" if told else None
        if instructed:
            pq.write_table(pa.Table.from_pylist(told), instructed)
        made = build_pairs(path, models[arch], identity, config, out, instructed)
        counts = made.model_dump()
        pairs = pq.read_table(out / "pairs.parquet").to_pylist()
        quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
        assert counts["rows"] == len(rows) == len(pairs) + len(quarantine)
        assert (counts["pairs"], counts["quarantine"]) == (len(pairs), len(quarantine))
        assert sum(counts["reasons"].values()) == len(quarantine)
        return counts, pairs, quarantine

    return run
