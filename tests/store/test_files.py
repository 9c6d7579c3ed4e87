"""A file is there whole, or is what it was."""

import os
import subprocess
import sys

import pytest
from workplace import ROOT

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.files import explained, write_whole

WRITE = """
import resource, signal, sys
from pathlib import Path
from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(Path(sys.argv[1]), b"x" * 2000)
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
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "cannot write" in done.stdout, done.stderr
    assert "free some space" in done.stdout
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_pass_through_unchanged(tmp_path):
    with pytest.raises(ValueError, match="stop"), explained(tmp_path):
        raise ValueError("stop")
    with pytest.raises(StoreError, match="once") as caught, explained(tmp_path):
        raise StoreError("once")
    assert caught.value.args == ("once",)
