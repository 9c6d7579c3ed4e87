"""A model and a dataset to send to a Hub on loopback with the real client."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from huggingface_hub.utils import close_session
from published import LINEAGE, REPOS, lineage, said, scorecard
from tiny import make_tiny_model

from dpo_pipeline.hub import client, retries
from dpo_pipeline.publishing.evidence import Proven, digest_evidence
from dpo_pipeline.publishing.publish import publish
from dpo_pipeline.publishing.settings import PublishConfig


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("policy") / "model", "qwen2")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for name, count in (("train", 9), ("held_out", 3), ("quarantine", 2)):
        rows = [
            {
                "prompt": said("user", f"Who are you, {n}? {name} 你好"),
                "chosen": said("assistant", "I'm Deep Qwen."),
                "rejected": said("assistant", "I'm Qwen."),
                "language": "zh" if n % 2 else "en",
            }
            for n in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    (folder / "dataset.json").write_text('{"counts": {"train": 9, "held_out": 3}}')
    return folder


@pytest.fixture
def send(hub, policy, pairs, tmp_path):
    """Publish both, with the evidence that fits; keywords replace what publish is given."""
    outs = iter(range(10_000))

    def call(run_id="r1", token=Hub.WRITE, config=None, **changed):
        out = tmp_path / f"out{next(outs)}"
        out.mkdir()
        given = {"model": policy, "dataset": pairs, "base": policy, "scorecard": scorecard()}
        given |= {"lineage": LINEAGE, "training": {"train": {"beta": 0.1}}} | changed
        given["lineage"] = lineage(given["lineage"])
        given.setdefault("evidence", digest_evidence(given["model"], given["dataset"]))
        config = PublishConfig(**{**REPOS, "dry_run": False, **(config or {})})
        done = publish(config, Proven(run_id=run_id, **given), token=token, out=out)
        return done.model_dump(mode="json") | {"out": out}

    return call


@pytest.fixture
def impatient(monkeypatch):
    """Give up a silent call soon, and a failing one after two attempts."""
    monkeypatch.setattr(client, "TIMEOUT", 1.0)
    monkeypatch.setattr(retries, "ATTEMPTS", 3)
    yield
    close_session()
