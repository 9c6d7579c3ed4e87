"""Artifacts are whole or absent, and what was damaged is noticed and built again."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builds import Counts, must_not_build, write_two
from disk_faults import obeying_modes

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.digests import digest_of

PARTS = {"stage": "save", "inputs": {"x": 1}}


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def test_what_was_built_is_reused(store):
    first, built = store.get_or_build("save", PARTS, write_two, Counts)
    again, rebuilt = store.get_or_build("save", PARTS, must_not_build, Counts)
    assert (built, rebuilt) == (True, False)
    assert again == first
    assert (first.path / "data" / "rows.txt").read_text() == "one\ntwo\n"
    assert first.stats == Counts(rows=2)


def test_other_parts_are_another_artifact(store):
    first, _ = store.get_or_build("save", PARTS, write_two, Counts)
    other, built = store.get_or_build("save", {**PARTS, "inputs": {"x": 2}}, write_two, Counts)
    assert built
    assert other.key != first.key
    assert other.digest == first.digest, "the digest is of the content alone"


def flip(path: Path, at: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flip a byte of a file": lambda p: flip(p / "data" / "rows.txt"),
    "flip a byte at the manifest's start": lambda p: flip(p / "manifest.json"),
    "flip a byte inside the manifest": lambda p: flip(p / "manifest.json", at=120),
    "delete a file": lambda p: (p / "info.json").unlink(),
    "delete the manifest": lambda p: (p / "manifest.json").unlink(),
    "cut a file short": lambda p: (p / "data" / "rows.txt").write_text("one\n"),
    "add a file": lambda p: (p / "extra.txt").write_text("x"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_noticed_set_aside_and_built_again(store, damage, caplog):
    first, _ = store.get_or_build("save", PARTS, write_two, Counts)
    damage(first.path)
    again, built = store.get_or_build("save", PARTS, write_two, Counts)
    assert built
    assert again.digest == first.digest
    assert len(list((store.root / "aside").iterdir())) == 1
    assert "set aside" in caplog.text


def test_a_deleted_artifact_is_built_again(store):
    first, _ = store.get_or_build("save", PARTS, write_two, Counts)
    for path in sorted(first.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    first.path.rmdir()
    assert store.get_or_build("save", PARTS, write_two, Counts)[1]


def test_an_artifact_moved_under_another_key_is_refused(store):
    first, _ = store.get_or_build("save", PARTS, write_two, Counts)
    other = {**PARTS, "inputs": {"x": 2}}
    second, _ = store.get_or_build("save", other, write_two, Counts)
    for path in second.path.rglob("*"):
        if path.is_file():
            path.unlink()
    second.path.joinpath("data").rmdir()
    second.path.rmdir()
    first.path.rename(second.path)
    assert store.get_or_build("save", other, write_two, Counts)[1]


def test_a_failed_build_leaves_nothing_but_its_scratch(store):
    def fails(out: Path, work: Path) -> Counts:
        (out / "half").write_text("half")
        (work / "checkpoint").write_text("step 3")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        store.get_or_build("train", PARTS, fails, Counts)
    assert list((store.root / "objects" / "train").iterdir()) == []
    assert list((store.root / "tmp").iterdir()) == []

    def resumes(out: Path, work: Path) -> Counts:
        (out / "model").write_text((work / "checkpoint").read_text())
        return Counts()

    artifact, _ = store.get_or_build("train", PARTS, resumes, Counts)
    assert (artifact.path / "model").read_text() == "step 3"
    assert list((store.root / "work").iterdir()) == []


def test_a_full_disk_is_a_clear_error_and_keeps_the_old_artifact(store):
    first, _ = store.get_or_build("save", PARTS, write_two, Counts)

    def full(out: Path, _work: Path) -> Counts:
        (out / "half").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "half")

    with pytest.raises(StoreError, match="No space left on device"):
        store.get_or_build("save", PARTS, full, Counts, refresh=True)
    assert store.get("save", first.key, Counts) == first


BARRED = """
import sys
from pathlib import Path
from builds import Counts, write_two
from disk_faults import barred
from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.artifacts import Store

store = Store(Path(sys.argv[1]))
first, _ = store.get_or_build("save", {"n": 0}, write_two, Counts)
folders = [store.root / name for name in ("locks", "tmp", "work", "objects/save")]
for folder, mode in [*((folder, 0o500) for folder in folders), (first.path, 0)]:
    with barred(folder, mode):
        try:
            store.get_or_build("save", {"n": int(mode > 0)}, write_two, Counts)
        except StoreError as error:
            print(error)
assert store.get("save", first.key, Counts) == first
"""


def test_who_may_not_read_or_write_is_told_where(store):
    done = obeying_modes("-c", BARRED, store.root)
    *said, unread = done.stdout.splitlines()
    assert len(said) == 4, done.stderr
    for name, line in zip(("locks", "tmp", "work", "objects/save"), said, strict=True):
        assert line.startswith("cannot write ")
        assert f": Permission denied ({store.root}/{name}" in line or "tmp" in line
        assert "give yourself the right" in line
    assert unread.startswith(f"cannot read {store.root}/objects/save/")


def test_refresh_builds_again(store):
    store.get_or_build("save", PARTS, write_two, Counts)
    assert store.get_or_build("save", PARTS, write_two, Counts, refresh=True)[1]


def test_what_lacks_rows_is_built_again_until_it_has_them(store):
    def lacking(out: Path, work: Path) -> Counts:
        return write_two(out, work).model_copy(update={"unfinished": 1})

    first, _ = store.get_or_build("save", PARTS, lacking, Counts)
    assert store.get("save", first.key, Counts) == first
    assert store.get_or_build("save", PARTS, lacking, Counts)[1]
    assert store.get_or_build("save", PARTS, write_two, Counts)[1]
    assert not store.get_or_build("save", PARTS, must_not_build, Counts)[1]


def test_an_artifact_of_an_older_version_is_told_as_older_and_replaced(store, caplog):
    caplog.set_level("INFO")
    first, _ = store.get_or_build("save", PARTS, write_two, Counts)
    manifest = first.path / "manifest.json"
    body = json.loads(manifest.read_text())["body"]
    del body["format"], body["built_at"]
    manifest.write_text(json.dumps({"sha256": digest_of(body), "body": body}))
    assert store.get("save", first.key, Counts) is None
    assert store.latest_parts("save") is None
    assert "is of another version" in caplog.text
    assert first.path.exists()
    assert store.get_or_build("save", PARTS, write_two, Counts)[1]
    assert store.get("save", first.key, Counts).stats == Counts(rows=2)
    assert not (store.root / "aside").exists()


def test_stats_that_an_older_version_counted_otherwise_are_told_as_older(store):
    class Counted(Counts):
        groups: int

    store.get_or_build("save", PARTS, write_two, Counts)
    _, built = store.get_or_build("save", PARTS, lambda *_: Counted(groups=1), Counted)
    assert built
    assert not (store.root / "aside").exists()


def test_links_are_refused(store, tmp_path):
    def links(out: Path, _work: Path) -> Counts:
        (out / "link").symlink_to("/etc/hostname")
        return Counts()

    with pytest.raises(StoreError, match="not links"):
        store.get_or_build("save", PARTS, links, Counts)


def _build_slowly(root: Path, log: Path) -> None:
    def slow(out: Path, work: Path) -> Counts:
        with log.open("a") as handle:
            handle.write("built\n")
        time.sleep(0.3)
        return write_two(out, work)

    Store(root).get_or_build("save", PARTS, slow, Counts)


def test_two_runs_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    runs = [
        context.Process(target=_build_slowly, args=(tmp_path / "store", tmp_path / "log"))
        for _ in range(4)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0] * 4
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_killed_build_holds_no_lock_and_leaves_no_artifact(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.records import Record
def build(out, work):
    (out / "half").write_text("half")
    print("building", flush=True)
    time.sleep(60)
Store(Path({str(tmp_path / "store")!r})).get_or_build("save", {PARTS!r}, build, Record)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "building\n"
        run.send_signal(signal.SIGKILL)
    store = Store(tmp_path / "store")
    artifact, built = store.get_or_build("save", PARTS, write_two, Counts)
    assert built
    assert not (artifact.path / "half").exists()
    assert list((store.root / "tmp").iterdir()) == []
