"""A store is one user's, or a group's; what somebody else planted in it is refused."""

import grp
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from workplace import ROOT

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.access import claim
from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.ledger import Ledger
from dpo_pipeline.store.records import Record

PARTS = {"stage": "save", "inputs": {}}
SOMEBODY = 65534  # a user that every system has
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

# Writes an artifact and a ledger as a user would, and says the mode of everything.
WRITE = """
import os, sys
from pathlib import Path
user, root = int(sys.argv[1]), Path(sys.argv[2])
from dpo_pipeline.store.access import claim
from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.ledger import Ledger
from dpo_pipeline.store.records import Record
os.setgroups([]), os.setgid(int(sys.argv[3])), os.setuid(user)
def build(out, work):
    (out / "data").mkdir()
    (out / "data" / "rows.txt").write_text(str(user))
    return Record()
claim(root)
artifact, built = Store(root).get_or_build("save", {"stage": "save", "inputs": {}}, build, Record)
book = Ledger(root / "ledger", {})
found = book.read({"k"})
book.append({} if found else {"k": {"user": user}})
print(built, (artifact.path / "data" / "rows.txt").read_text(), found.get("k", {}).get("user"))
"""


def write(root: Path, user: int, group: int = SOMEBODY, **extra: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(user), str(root), str(group)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **extra},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or done.stderr


def modes(root: Path) -> set[tuple[bool, str]]:
    return {(p.is_dir(), oct(p.stat().st_mode & 0o7777)) for p in (root, *root.rglob("*"))}


def test_by_default_everything_is_its_users_alone(tmp_path):
    assert write(tmp_path / "store", os.geteuid(), os.getegid()) == f"True {os.geteuid()} None"
    assert modes(tmp_path / "store") == {(True, "0o700"), (False, "0o600")}


def test_a_root_that_is_there_keeps_its_mode(tmp_path):
    before = os.umask(0)
    tmp_path.chmod(0o755)
    try:
        claim(tmp_path)
    finally:
        os.umask(before)
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.fixture
def commons() -> Iterator[Path]:
    """A folder where anybody may write; those of pytest are closed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@needs_root
def test_the_members_of_a_group_share_a_store_and_believe_each_other(commons):
    group, root = grp.getgrgid(SOMEBODY), commons / "store"
    of = {"DPO_PIPELINE_GROUP": group.gr_name}
    assert write(root, SOMEBODY, **of) == f"True {SOMEBODY} None"
    assert modes(root) == {(True, "0o2770"), (False, "0o660")}
    assert {path.stat().st_gid for path in root.rglob("*")} == {SOMEBODY}
    # User 4321 belongs to the group for as long as its process says so.
    assert write(root, 4321, **of) == f"False {SOMEBODY} {SOMEBODY}"


@needs_root
def test_what_another_user_planted_is_refused_and_made_anew(commons, caplog):
    root = commons / "store"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    assert write(root, SOMEBODY) == f"True {SOMEBODY} None"
    store, planted = Store(root), (root / "objects" / "save")
    artifact, built = store.get_or_build("save", PARTS, plain_build, Record)
    assert built
    assert "is another user's" in caplog.text
    assert (artifact.path / "data").read_text() == "mine"
    assert len(list(planted.iterdir())) == 1
    assert Ledger(root / "ledger", {}).read({"k"}) == {}


def plain_build(out: Path, _work: Path) -> Record:
    (out / "data").write_text("mine")
    return Record()


def test_a_link_in_place_of_an_artifact_is_refused(tmp_path):
    store = Store(tmp_path / "store")
    artifact, _ = store.get_or_build("save", PARTS, plain_build, Record)
    artifact.path.rename(tmp_path / "elsewhere")
    artifact.path.symlink_to(tmp_path / "elsewhere")
    assert store.get_or_build("save", PARTS, plain_build, Record)[1]
    assert not artifact.path.is_symlink()


def test_a_group_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DPO_PIPELINE_GROUP", "no-such-group")
    before = os.umask(0o022)
    try:
        with pytest.raises(StoreError, match="no such group: create it"):
            claim(tmp_path / "store")
    finally:
        os.umask(before)
