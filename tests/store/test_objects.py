"""A store on object storage keeps the promises of one on a disk, for workers without a shared one.

A cache folder of its own stands for a machine; S3 is moto's server, the rest is real.
"""

import gc
import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import pytest
from builds import Counts, must_not_build, write_two
from prefect_server import wait_for
from s3_server import BUCKET, client, s3_server
from workplace import ROOT

from dpo_pipeline.errors import SettingsError, StoreError
from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.digests import canonical, digest_of
from dpo_pipeline.store.keys import KeyParts
from dpo_pipeline.store.ledger import LONGEST, Ledger
from dpo_pipeline.store.objects import ObjectStore, open_store
from dpo_pipeline.store.places import cache_bound, home
from dpo_pipeline.store.remote import Remote, mirror, prune, publish

PARTS: KeyParts = {"stage": "save", "inputs": {"x": 1}}


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("s3")) as reach, pytest.MonkeyPatch.context() as patch:
        for name, value in reach.items():
            patch.setenv(name, value)
        yield client(reach)


@pytest.fixture(params=["s3", "file"])
def address(request, tmp_path) -> str:
    """Give the address of an empty store."""
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def remote(address) -> Remote:
    return Remote(address)


@pytest.fixture
def machine(remote, tmp_path):
    """Make stores of the same remote, each with the cache of a machine of its own."""
    return lambda name, bound=1e9: ObjectStore(remote, tmp_path / name, bound)


def names(remote: Remote, folder: str = "objects") -> set[str]:
    """Return the last part of the names of all files in a folder of the remote."""
    return {name.rsplit("/", 1)[-1] for name in remote.sizes(folder)}


def test_what_one_machine_made_the_other_reads(machine):
    first, built = machine("a").get_or_build("save", PARTS, write_two, Counts)
    other, rebuilt = machine("b").get_or_build("save", PARTS, must_not_build, Counts)
    assert (built, rebuilt) == (True, False)
    assert other.path != first.path
    assert other == first.model_copy(update={"path": other.path})
    assert (other.path / "data" / "rows.txt").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda fs, files: fs.pipe_file(files["rows.txt"], b"one\ntwe\n"),
        lambda fs, files: fs.pipe_file(files["rows.txt"], b"one\n"),
        lambda fs, files: fs.pipe_file(files["manifest.json"], b"{}"),
        lambda fs, files: fs.rm_file(files["info.json"]),
    ],
    ids=["flip a byte", "cut a file short", "write over the manifest", "delete a file"],
)
def test_damage_there_is_noticed_set_aside_and_made_again(address, remote, machine, damage, caplog):
    first, _ = machine("a").get_or_build("save", PARTS, write_two, Counts)
    fs, base = fsspec.url_to_fs(address, use_listings_cache=False)
    damage(fs, {path.rsplit("/", 1)[-1]: path for path in fs.find(f"{base}/objects")})
    again, built = machine("b").get_or_build("save", PARTS, write_two, Counts)
    assert built
    assert again.digest == first.digest
    assert "set aside in" in caplog.text
    assert "manifest.json" in names(remote, "aside")
    assert names(remote) == {"manifest.json", "rows.txt", "info.json"}
    # The machine whose own copy had been good all the time goes on with what the store holds.
    assert machine("a").get("save", first.key, Counts).stats == again.stats
    assert not machine("c").get_or_build("save", PARTS, must_not_build, Counts)[1]


def test_a_damaged_copy_is_brought_again(machine):
    first, _ = machine("a").get_or_build("save", PARTS, write_two, Counts)
    (first.path / "info.json").write_text("{ }")
    again, built = machine("a").get_or_build("save", PARTS, must_not_build, Counts)
    assert not built
    assert (again.path / "info.json").read_text() == "{}"


def test_a_manifest_that_leads_out_of_the_cache_is_refused(address, remote, machine, tmp_path):
    first, _ = machine("a").get_or_build("save", PARTS, write_two, Counts)
    fs, base = fsspec.url_to_fs(address, use_listings_cache=False)
    (manifest,) = [p for p in fs.find(f"{base}/objects") if p.endswith("manifest.json")]
    body = json.loads(fs.cat_file(manifest))["body"]
    body["files"]["../../../../planted"] = body["files"].pop("info.json")
    fs.pipe_file(manifest, canonical({"sha256": digest_of(body), "body": body}))
    assert machine("b").get("save", first.key, Counts) is None
    assert not list(tmp_path.rglob("planted"))


def test_what_lacks_rows_or_is_refreshed_takes_the_place_of_the_old(remote, machine):
    def lacking(out: Path, work: Path) -> Counts:
        (out / "lacking.txt").write_text("x")
        return Counts(unfinished=1)

    machine("a").get_or_build("save", PARTS, lacking, Counts)
    assert machine("b").get_or_build("save", PARTS, write_two, Counts)[1]
    assert names(remote) == {"manifest.json", "rows.txt", "info.json"}
    found, built = machine("a").get_or_build("save", PARTS, must_not_build, Counts)
    assert not built
    assert not (found.path / "lacking.txt").exists()
    assert machine("c").get_or_build("save", PARTS, write_two, Counts, refresh=True)[1]


BUILD = """
import os, sys, time
from pathlib import Path
from dpo_pipeline.store.objects import ObjectStore
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.remote import Remote
address, cache, mine, others, size = sys.argv[1:]
def build(out, work):
    (out / "made").write_bytes(os.urandom(64))
    with (out / "model.safetensors").open("wb") as file:
        file.truncate(int(size))
    Path(mine).touch()
    while not Path(others).exists():
        time.sleep(0.01)
    return Record()
store = ObjectStore(Remote(address), Path(cache), 1e12)
artifact, _ = store.get_or_build("save", {"stage": "save", "inputs": {"x": 1}}, build, Record)
print((artifact.path / "made").read_bytes().hex())
"""


def builder(address: str, cache: Path, mine: Path, others: Path, size: int = 9):
    """Start a process that builds, and publishes once the other one builds as well."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, *map(str, (address, cache, mine, others, size))],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )


def test_two_processes_that_race_for_a_key_end_up_with_one_artifact(address, remote, tmp_path):
    marks = [tmp_path / "a-builds", tmp_path / "b-builds"]
    with (
        builder(address, tmp_path / "a", *marks) as first,
        builder(address, tmp_path / "b", *reversed(marks)) as second,
    ):
        said = [process.communicate()[0].strip() for process in (first, second)]
    assert said[0]
    assert said[0] == said[1]
    objects = remote.sizes("objects")
    assert len(objects) == 3, f"one manifest and two files: {objects}"


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the same machine", "another machine"])
def test_a_kill_in_an_upload_leaves_nothing_that_is_read(s3, tmp_path, who):
    """The upload is one of many parts; those that were sent are removed by whoever comes next."""
    address = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    prefix, here, now = address.removeprefix(f"s3://{BUCKET}/"), tmp_path / "a", tmp_path / "now"

    def parts() -> list:
        found = s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [upload for upload in found if upload["Key"].startswith(prefix)]

    now.touch()
    with builder(address, here, tmp_path / "mine", now, size=300_000_000) as process:
        wait_for(parts)
        process.kill()
    there = Remote(address)
    assert "manifest.json" not in names(there)
    if who == "the same machine":
        store, build = ObjectStore(there, here, 1e12), must_not_build
    else:
        store, build = ObjectStore(there, tmp_path / "b", 1e12), write_two
    artifact, _ = store.get_or_build("save", PARTS, build, Counts)
    assert parts() == []
    sent = {p.name for p in artifact.path.rglob("*") if p.is_file()}
    assert names(there) == sent
    assert len(there.sizes("objects")) == len(sent), "and nothing of the upload that was killed"
    assert ObjectStore(there, tmp_path / "c", 1e12).get("save", artifact.key, Counts)


def test_what_was_built_and_not_published_is_published_by_the_next_run(remote, machine, tmp_path):
    Store(tmp_path / "a").get_or_build("save", PARTS, write_two, Counts)
    assert not machine("a").get_or_build("save", PARTS, must_not_build, Counts)[1]
    assert not machine("b").get_or_build("save", PARTS, must_not_build, Counts)[1]


def thousand(number: int) -> tuple[KeyParts, object]:
    def build(out: Path, _work: Path) -> Counts:
        (out / "data").write_bytes(bytes([number]) * 10_000)
        return Counts()

    return {"stage": "save", "inputs": {"x": number}}, build


def test_the_cache_keeps_its_bound_and_what_is_in_use(machine, tmp_path, caplog):
    def cached() -> int:
        return len(list((tmp_path / "a" / "objects" / "save").iterdir()))

    bound = 35_000  # three artifacts with their manifests
    store = machine("a", bound)
    made = [store.get_or_build("save", *thousand(n), Counts)[0] for n in range(5)]
    assert cached() == 5, "all of it is in use"
    assert "all of it is in use" in caplog.text
    del store
    gc.collect()  # the process that used them is over
    store = machine("a", bound)
    first = store.get("save", made[0].key, Counts)
    brought = store.get_or_build("save", *thousand(5), Counts)[0]
    assert cached() == 3
    assert first.path.exists()
    assert brought.path.exists()
    again = store.get("save", made[1].key, Counts)
    assert again.path.exists()
    assert first.path.exists()


def test_what_is_not_published_is_not_dropped(machine, tmp_path):
    kept, _ = Store(tmp_path / "a").get_or_build("save", *thousand(1), Counts)
    machine("a", 15_000).get_or_build("save", *thousand(2), Counts)
    assert kept.path.exists()


def test_answers_of_all_machines_are_one_ledger(machine, remote, tmp_path):
    a, b = (Ledger(machine(name).root / "ledger", {"weights": "x"}) for name in "ab")
    a.append({"one": {"text": "é"}})  # the writer ends here: nothing is closed
    b.append({"two": {"text": "2"}})
    assert b.read({"one", "two"}) == {"one": {"text": "é"}, "two": {"text": "2"}}
    a.append({"three": {"text": "3" * LONGEST}})
    a.append({"four": {"text": "4"}})
    assert b.read({"one", "two", "three", "four"}).keys() == {"one", "two", "three", "four"}
    segments = [path for path in remote.sizes("ledger") if path.endswith(".jsonl")]
    assert len(segments) == 3, "one that is long enough is not sent again"


def test_answers_that_a_killed_writer_had_not_sent_are_sent_by_the_next(machine, tmp_path):
    Ledger(tmp_path / "a" / "ledger", {}).append({"one": {"text": "1"}})  # no cache as yet
    machine("a")
    assert Ledger(tmp_path / "a" / "ledger", {}).read({"one"})
    assert Ledger(machine("b").root / "ledger", {}).read({"one"}) == {"one": {"text": "1"}}


def test_files_of_a_cache_are_sent_brought_and_removed(machine, remote):
    a, b = (machine(name).root / "work" / "train" for name in "ab")
    (a / "step-1").mkdir(parents=True)
    (a / "step-1" / "state").write_text("1")
    publish(a)
    mirror(b)
    assert (b / "step-1" / "state").read_text() == "1"
    (a / "step-1" / "state").unlink()
    (a / "step-2").mkdir()
    (a / "step-2" / "state").write_text("2")
    publish(a / "step-2")
    prune(a)
    assert list(remote.sizes("work")) == ["work/train/step-2/state"]
    own = machine("a").root / "tmp" / "evaluate" / "ledger"
    Ledger(own, {}).append({"one": {"text": "1"}})
    assert list(remote.sizes("tmp")) == [], "what a stage writes for itself alone stays here"


def test_of_writers_at_once_one_succeeds(remote):
    with ThreadPoolExecutor(8) as pool:
        for name in ("x", "y", "z"):
            contents = [b"%d" % number for number in range(8)]
            wrote = list(pool.map(partial(remote.create, name), contents))
            assert wrote.count(True) == 1
            assert remote.read(name) == contents[wrote.index(True)]


def test_conditional_writes_are_checked_for(remote, caplog):
    remote.check()
    remote.check()
    assert caplog.text == ""
    assert remote.read("store.json") == b'{"format": 1}'


def test_a_store_that_is_not_there_is_a_clear_error(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("DPO_PIPELINE_HOME", "s3://no-such-bucket/x")
    monkeypatch.setenv("DPO_PIPELINE_CACHE", str(tmp_path))
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/x: .* check the address"):
        open_store()


def test_the_environment_says_where_the_cache_lies_and_what_it_holds(monkeypatch, tmp_path):
    monkeypatch.setenv("DPO_PIPELINE_HOME", f"file://{tmp_path}/remote/")
    monkeypatch.setenv("DPO_PIPELINE_CACHE", str(tmp_path / "caches"))
    monkeypatch.setenv("DPO_PIPELINE_CACHE_GB", "1.5")
    store = open_store()
    assert store is open_store(), "what a process uses is held by one store"
    assert store.root == home()
    assert store.root.parent == tmp_path / "caches"
    assert (store.bound, store.remote.address) == (1.5e9, f"file://{tmp_path}/remote")
    monkeypatch.setenv("DPO_PIPELINE_CACHE_GB", "much")
    with pytest.raises(SettingsError, match="'much': give a number of gigabytes"):
        cache_bound()
