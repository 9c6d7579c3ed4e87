"""The same inputs give the same bytes, whatever the order of sets, the batches and the shards."""

import json
import re
from pathlib import Path

import pytest
from workplace import Workplace

pytestmark = pytest.mark.slow

SMALL = (
    *("--prompts.limit", "60", "--generation.max-new-tokens", "24", "--pairs.min-yield", "0.01"),
    *("--pairs.ways", '["replaced", "transferred", "instructed", "filled"]'),
    *("--train.max-steps", "4", "--train.goal", "null", "--train.batch-size", "4"),
    *("--train.retention-weight", "0.1", "--train.retention-rows", "2"),
    *("--evaluation.max-prompts", "6", "--evaluation.matrix-prompts", "2"),
    *("--evaluation.sampled", "1"),
    # So short a training would not pass, and nothing would be published.
    *("--gate.identity-worst", "null", "--gate.leak-rate", "null", "--gate.min-answers", "1"),
    *("--gate.sampled-identity", "null", "--gate.sampled-leak", "null"),
    *("--gate.matrix-leak", "null", "--publish.model-repo", "me/model"),
    *("--publish.dataset-repo", "me/pairs"),
)
# Seed of the hashes that sets are ordered by -> what else is another way to the same.
WAYS = {
    "1": (),
    "2": ("--generation.batch-tokens", "500", "--generation.shard-rows", "7"),
    "3": ("--generation.batch-tokens", "3000", "--generation.shard-rows", "50"),
}
FILES = {
    "download": ["prompts.parquet", "quarantine.parquet"],
    "census": ["census.json"],
    "generate": ["responses.parquet"],
    "instruct": ["instructed.parquet"],
    "rewrite": ["pairs.parquet", "quarantine.parquet"],
    "save": ["dataset.json", "held_out.parquet", "quarantine.parquet", "train.parquet"],
    "retain": ["retention.parquet"],
    "train": ["history.jsonl", "model/model.safetensors", "training.json"],
    "evaluate": ["answers.parquet", "scorecard.json"],
}
COST = re.compile(r"<section>\n<h2>Cost</h2>.*?</section>", re.DOTALL)  # seconds of stages


@pytest.fixture(scope="module")
def runs(tmp_path_factory, server) -> list[dict]:
    summaries = []
    for seed, options in WAYS.items():
        place = Workplace(tmp_path_factory.mktemp("home"))
        extra = {"PREFECT_API_URL": server, "PYTHONHASHSEED": seed, "HF_HUB_OFFLINE": "1"}
        done = place.full(*SMALL, *options, **extra)
        assert done.returncode == 0, done.stdout + done.stderr
        summaries += place.summaries()
    return summaries


@pytest.mark.parametrize("stage", FILES)
def test_a_stage_makes_the_same_bytes(runs, stage):
    folders = [Path(run["stages"][stage]["path"]) for run in runs]
    manifests = [json.loads((folder / "manifest.json").read_text())["body"] for folder in folders]
    assert {body["key"] for body in manifests} == {folders[0].name}
    assert manifests[0]["files"].keys() >= set(FILES[stage])
    for body in manifests[1:]:
        assert body["files"] == manifests[0]["files"]


def test_the_report_is_the_same_but_for_its_times(runs):
    pages = [Path(run["paths"]["report"]).read_text("utf-8") for run in runs]
    assert len(COST.findall(pages[0])) == 1
    assert len({COST.sub("", page) for page in pages}) == 1


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_the_card_is_the_same(runs, kind):
    cards = [
        (Path(run["paths"]["summary"]).parent / "publish" / kind / "README.md").read_text("utf-8")
        for run in runs
    ]
    assert (
        len({card.replace(run["run_id"], "") for card, run in zip(cards, runs, strict=True)}) == 1
    )
