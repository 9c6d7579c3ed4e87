"""What a run refers to stays; what may go is named first, with its bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from workplace import ROOT

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.artifacts import Artifact, Store
from dpo_pipeline.store.keys import KeyParts
from dpo_pipeline.store.maintenance import artifacts, collect, main
from dpo_pipeline.store.records import Record


class Model(Record):
    path: Path
    weights_digest: str


class Stats(Record):
    model: Model | None = None


def make(store: Store, stage: str, inputs: KeyParts, model: Model | None = None) -> Artifact[Stats]:
    def build(out: Path, _work: Path) -> Stats:
        (out / "data").write_bytes(b"x" * 1000)
        return Stats(model=model)

    return store.get_or_build(stage, {"stage": stage, "inputs": inputs}, build, Stats)[0]


def refer(store: Store, run: str, *made: Artifact[Stats]) -> None:
    stages = {a.stage: {"status": "built", "key": a.key, "path": str(a.path)} for a in made}
    folder = store.root / "runs" / run
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"stages": stages}))


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("DPO_PIPELINE_HOME", str(tmp_path / "store"))
    return Store(tmp_path / "store")


def left(store: Store) -> set[Path]:
    return {one.path for one in artifacts(store)}


def test_what_a_run_refers_to_stays_down_to_the_weights_it_began_with(store):
    weights = "a" * 64
    older = make(store, "model", {"n": 1}, Model(path=Path("model"), weights_digest=weights))
    os.utime(older.path, (1, 1))
    newer = make(store, "model", {"n": 2}, Model(path=Path("model"), weights_digest=weights))
    dataset = make(store, "save", {"n": 3})
    policy = make(store, "train", {"weights": weights, "dataset": {"key": dataset.key}})
    named = make(store, "model", {"n": 4}, Model(path=policy.path, weights_digest="b" * 64))
    loose = make(store, "save", {"n": 5})
    refer(store, "first", named)
    would = list(collect(store, 0, delete=False))
    assert left(store) == {a.path for a in (older, newer, dataset, policy, named, loose)}
    did = list(collect(store, 0, delete=True))
    assert would[:-1] == did[:-1]
    # Weights that lie there twice are kept once.
    assert left(store) == {a.path for a in (newer, dataset, policy, named)}
    assert not list((store.root / "tmp").iterdir())
    assert store.get("train", policy.key, Stats) == policy


def test_what_is_young_stays_and_what_died_goes(store):
    loose = make(store, "save", {})
    for name in ("aside/old", "work/old", "tmp/half"):
        (store.root / name).mkdir(parents=True)
        (store.root / name / "file").write_bytes(b"y" * 10)
    old = store.root / "aside" / "old"
    for path in (old / "file", old):
        os.utime(path, (1, 1))
    (*lines, total) = collect(store, 1, delete=True)
    assert [Path(line.split()[-1]).name for line in lines] == ["half", "old"]
    assert total.split()[:2] == ["20", "bytes"]
    assert left(store) == {loose.path}
    assert (store.root / "work" / "old" / "file").exists()


def test_nothing_is_collected_while_a_run_uses_the_store(store):
    make(store, "save", {})
    with store.hold(), pytest.raises(StoreError, match="a run is using it"):
        list(collect(store, 0, delete=True))
    assert left(store)


def test_the_commands(store, capsys):
    first, second = (make(store, "save", {"beta": beta}) for beta in (1, 2))
    for number, path in enumerate((first.path, second.path), 1):
        for file in (*path.iterdir(), path):
            os.utime(file, (number, number))
    refer(store, "one-to-two-0001", second)
    assert main(["ls"]) == 0
    said = capsys.readouterr().out
    assert f"save         {first.key}" in said
    assert "0 runs" in said
    assert "1 runs" in said
    assert main(["explain", "0001"]) == 0
    assert "unlike the one before: inputs/beta" in capsys.readouterr().out
    assert main(["verify"]) == 0
    (first.path / "data").write_bytes(b"z")
    assert main(["verify"]) == 1
    assert "data has changed" in capsys.readouterr().out
    assert main(["gc"]) == 0
    assert "would be freed" in capsys.readouterr().out
    assert left(store) == {first.path, second.path}
    with pytest.raises(SystemExit, match="name one run"):
        main(["explain", "nothing-so-called"])


def test_the_command_as_a_user_runs_it(store):
    make(store, "save", {})
    done = subprocess.run(
        [sys.executable, "-m", "dpo_pipeline.store.maintenance", "gc", "--delete", "--days", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert " bytes freed" in done.stdout
    assert not left(store)
