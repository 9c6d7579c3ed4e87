"""Two machines without a shared disk, and a store on S3 that is their home."""

import json

import pytest
from s3_server import BUCKET, client, s3_server
from workplace import Workplace

HOME = f"s3://{BUCKET}/team"
TINY = (
    *("--prompts.limit", "60", "--generation.max-new-tokens", "24"),
    *("--train.max-steps", "10", "--train.retention-rows", "4", "--train.goal", "null"),
    *("--evaluation.max-prompts", "20", "--evaluation.matrix-prompts", "0"),
)


@pytest.mark.slow
def test_a_run_is_cached_for_a_machine_that_has_nothing(tmp_path):
    def run(machine: str) -> dict:
        cache = tmp_path / machine / "cache"
        (tmp_path / machine).mkdir()
        place = Workplace(tmp_path / machine)
        done = place.full(*TINY, **reach, DPO_PIPELINE_HOME=HOME, DPO_PIPELINE_CACHE=str(cache))
        # So short a training need not pass the gate.
        assert done.returncode in (0, 1), done.stdout + done.stderr
        assert "Gate" in done.stdout, done.stdout + done.stderr
        (file,) = cache.glob("*/runs/*/summary.json")
        return json.loads(file.read_text())

    with s3_server(tmp_path) as reach:
        first, second = run("a"), run("b")
        assert {stage["status"] for stage in first["stages"].values()} == {"built"}
        assert {stage["status"] for stage in second["stages"].values()} == {"cached"}
        assert second["scorecard"] == first["scorecard"]
        kept = client(reach).list_objects_v2(Bucket=BUCKET, Prefix="team/")["Contents"]
        names = {entry["Key"].removeprefix("team/") for entry in kept}
    folders = {name.split("/")[0] for name in names}
    assert folders == {"store.json", "objects", "ledger", "references", "runs"}, "no scratch"
    for summary in (first, second):
        run_folder = f"runs/{summary['run_name']}"
        assert {f"{run_folder}/summary.json", f"{run_folder}/report.html"} <= names


def test_an_address_that_nothing_reaches_ends_the_run_before_it_begins(tmp_path):
    place = Workplace(tmp_path)
    done = place.full(DPO_PIPELINE_HOME="ftp://host/x")
    assert done.returncode == 1
    assert done.stderr == (
        "SettingsError: DPO_PIPELINE_HOME is 'ftp://host/x': give a folder, or an address such as "
        "s3://bucket/prefix; schemes are s3, gs, az, file\n"
    )
    assert not any("ftp" in path.name for path in tmp_path.iterdir())
