"""A scorecard is the same in every run, also where Python hashes strings otherwise."""

import subprocess
import sys

from workplace import ROOT

SCRIPT = """
from pathlib import Path
from cards import GOOD, PLANTED, make_card
from dpo_pipeline.evaluation import cases, robustness, statistics
from dpo_pipeline.identity.settings import IdentityConfig

leak = {"after": {"leak_rate": statistics.wilson(4, 16)}}
matrix = {name: leak for name in cases.matrix_systems(IdentityConfig(original_name="Qwen"))}
for number, answers in enumerate((GOOD, PLANTED)):
    card = make_card(answers)[0]
    card.model_copy(update={"leaks": robustness.explain_leaks(matrix, True)}).write(Path("card"))
    print(Path("card").read_text())
"""


def test_the_order_of_sets_changes_no_byte(tmp_path):
    written = set()
    for seed in range(6):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}", "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        written.add(run.stdout)
    (card,) = written
    assert "system prompt “empty” (25%" in card
