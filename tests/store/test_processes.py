"""A process ends with the one that started it."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has the call")

CHILD = """
import os, sys, time
from dpo_pipeline.store.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
print("lives", flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_child_is_killed_with_its_parent():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert sorted(parent.stdout.readline() for _ in range(2))[1] == "lives\n"
        parent.kill()
        assert parent.stdout.read() == ""  # the pipe closes when the last of them is gone


def test_a_child_whose_parent_is_gone_already_says_so():
    done = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "The process that started this one is gone." in done.stderr
