"""A file is there whole, or is what it was."""

import numpy
import pytest
from disk_faults import full_disk, obeying_modes
from safetensors.numpy import save_file

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.files import explained, write_whole

BARRED = """
import sys
from pathlib import Path
from disk_faults import barred
from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.files import write_whole
path = Path(sys.argv[1])
with barred(path.parent):
    try:
        write_whole(path, b"x")
    except StoreError as error:
        print(error)
"""


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    for text in ("first", "第二"):
        write_whole(path, text)
        assert path.read_text("utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_keeps_what_was_there_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    said = rf"cannot write {path}: .*; free some space or set "
    with pytest.raises(StoreError, match=said), full_disk(1000):
        write_whole(path, b"x" * 2000)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_known_by_whatever_a_library_makes_of_it(tmp_path):
    said = rf"cannot write {tmp_path}: .*; free some space or set "
    with pytest.raises(StoreError, match=said), full_disk(1000), explained(tmp_path):
        save_file({"a": numpy.zeros(1000)}, tmp_path / "a.safetensors")
    broke = explained("here", "write", RuntimeError, note=", it is large")
    with pytest.raises(StoreError, match=r"write here: it broke; free .*, it is large"), broke:
        raise RuntimeError("it broke\nat line 7")


def test_who_may_not_write_is_told_so(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    path.parent.mkdir()
    done = obeying_modes("-c", BARRED, path)
    assert f"cannot write {path}: Permission denied" in done.stdout, done.stderr
    assert "give yourself the right to read and write there, or set DPO_" in done.stdout
    assert list(path.parent.iterdir()) == []


def test_other_errors_pass_through_unchanged(tmp_path):
    with pytest.raises(ValueError, match="stop"), explained(tmp_path):
        raise ValueError("stop")
    with pytest.raises(StoreError, match="once") as caught, explained(tmp_path):
        raise StoreError("once")
    assert caught.value.args == ("once",)
    with pytest.raises(ConnectionRefusedError), explained(tmp_path):
        raise ConnectionRefusedError(111, "Connection refused")
