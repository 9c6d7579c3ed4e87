"""What a run says never stops what it does."""

import os
import subprocess
import sys

import pytest

SPEAKER = """
import logging, pathlib, sys
from tasks import console
from prefect.logging.handlers import PrefectConsoleHandler

logger = logging.getLogger("run")
logger.addHandler(PrefectConsoleHandler())
logger.setLevel("INFO")
sys.stdin.read()  # until nobody listens
logger.info("one")
logger.info("two")
pathlib.Path(sys.argv[1]).write_text("went on")
"""


@pytest.mark.parametrize(
    ("worker", "goes_on"), [({"PREFECT__FLOW_RUN_ID": "x"}, True), ({}, False)]
)
def test_a_run_whose_worker_is_gone_goes_on_speaking_to_nobody(tmp_path, worker, goes_on):
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT__FLOW_RUN_ID"}
    child = subprocess.Popen(
        [sys.executable, "-c", SPEAKER, str(tmp_path / "done")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment | worker,
    )
    for pipe in (child.stdout, child.stderr, child.stdin):
        pipe.close()
    child.wait(timeout=60)
    assert (tmp_path / "done").exists() is goes_on
