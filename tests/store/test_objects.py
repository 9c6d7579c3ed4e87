"""A store on object storage keeps the promises of one on a disk, for workers without a shared one.

A cache folder of its own stands for a machine; S3 is moto's server, the rest is real.
"""

import uuid
from pathlib import Path

import pytest
from s3_server import BUCKET, client, s3_server

from dpo_pipeline.store.objects import ObjectStore
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.remote import Remote

PARTS = {"stage": "save", "inputs": {"x": 1}}


class Counts(Record):
    rows: int = 0
    unfinished: int = 0


def write_two(out: Path, _work: Path) -> Counts:
    (out / "data").mkdir()
    (out / "data" / "rows.txt").write_text("one\ntwo\n")
    (out / "info.json").write_text("{}")
    return Counts(rows=2)


def must_not_build(out: Path, _work: Path) -> Counts:
    raise AssertionError("a good artifact was built again")


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
def machine(address, tmp_path):
    """Make stores of the same remote, each with the cache of a machine of its own."""

    def make(name: str, bound: float = 1e9) -> ObjectStore:
        there = Remote(address)
        there.check()
        return ObjectStore(there, tmp_path / name, bound)

    return make


def test_what_one_machine_made_the_other_reads(machine):
    first, built = machine("a").get_or_build("save", PARTS, write_two, Counts)
    other, rebuilt = machine("b").get_or_build("save", PARTS, must_not_build, Counts)
    assert (built, rebuilt) == (True, False)
    assert other.path != first.path
    assert other == first.model_copy(update={"path": other.path})
    assert (other.path / "data" / "rows.txt").read_text() == "one\ntwo\n"
