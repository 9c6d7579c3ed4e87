"""Keys change with what a result depends on, and with nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rewording import in_other_words
from workplace import ROOT

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.store import keys
from dpo_pipeline.training.settings import TrainConfig

DIGESTS = """
import json, sys
from dpo_pipeline.store.keys import code_digests
print(json.dumps({name: code_digests(frozenset({name})) for name in sys.argv[1:]}))
"""
PAIRS, ANSWERS = "dpo_pipeline.pairs.rewriting", "dpo_pipeline.answers.collecting"
SCORE, CHILD = "dpo_pipeline.evaluation.scorecard", "dpo_pipeline.training.child"
PROMPTS, STARTER = "dpo_pipeline.prompts.preparation", "dpo_pipeline.starter.build"
STAGES = (PAIRS, ANSWERS, SCORE, CHILD, PROMPTS, STARTER)

# Edited file -> the modules whose code digest it changes.
EDITS = {
    "identity/names.py": {PAIRS, SCORE, PROMPTS},
    "models/references.py": {PAIRS, ANSWERS, SCORE, CHILD},
    "answers/decoding.py": {ANSWERS, SCORE},
    "pairs/rewriting.py": {PAIRS},
    "training/loss.py": {SCORE},
    "training/shared_prefixes.py": {CHILD},
    "evaluation/measures.py": {SCORE},
    "starter/corpus.py": {STARTER},
    "report/page.py": set(),
    "publishing/settings.py": set(),
    "training/settings.py": {CHILD, SCORE},
    "config.py": set(),
}


@pytest.fixture
def copied_library(tmp_path) -> Path:
    """A private copy of the library, to be edited."""
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "dpo_pipeline", tmp_path / "dpo_pipeline", ignore=ignored))


def digests(library: Path, *modules: str) -> dict[str, dict[str, str]]:
    """Read code digests of a copy of the library, in a process that imports it."""
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS, *modules],
        env={**os.environ, "PYTHONPATH": str(library.parent)},
        cwd=library.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_edit_changes_the_stages_that_import_the_module(copied_library):
    clean = digests(copied_library, *STAGES)
    for edited, concerned in EDITS.items():
        path = copied_library / edited
        source = path.read_text(encoding="utf-8")
        path.write_text(source + "\nEDITED = True\n", encoding="utf-8")
        now = digests(copied_library, *STAGES)
        assert {name for name in STAGES if now[name] != clean[name]} == concerned, edited
        path.write_text(source, encoding="utf-8")


def test_words_change_nothing(copied_library):
    clean = digests(copied_library, SCORE)
    for path in copied_library.rglob("*.py"):
        words = path.read_text(encoding="utf-8").replace("\n    Args:\n", "\n    Arguments:\n")
        path.write_text(in_other_words(words) + "\n# A remark.\n", encoding="utf-8")
    assert digests(copied_library, SCORE) == clean


def test_only_strings_that_stand_as_statements_are_words():
    documented = """
class Section:
    "What it is."
    rank: int = 16
    "What the field is."

def run(value):
    "What it does."
    if value:
        "Why nothing is done."
    yield "a result"
    f"{value()}"
    ...
"""
    bare = [line for line in documented.splitlines() if not line.lstrip().startswith('"')]
    code = "\n".join(bare).replace("if value:", "if value: pass")
    assert keys.code_of(documented) == keys.code_of(code)
    for kept in ("a result", "{value()}", "..."):
        assert keys.code_of(code.replace(kept, "0")) != keys.code_of(code)


def test_lazy_imports_count_and_type_checking_imports_do_not(tmp_path):
    shutil.copytree(ROOT / "dpo_pipeline" / "store", tmp_path / "dpo_pipeline" / "store")
    library = tmp_path / "dpo_pipeline"
    shutil.copy(ROOT / "dpo_pipeline" / "errors.py", library)
    (library / "__init__.py").write_text("")
    (library / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from dpo_pipeline import typed\n"
        "def late():\n    from . import lazy\n    import dpo_pipeline.named as n\n"
    )
    for name in ("lazy", "named", "typed", "stranger"):
        (library / f"{name}.py").write_text("")
    (found,) = digests(library, "dpo_pipeline.a").values()
    assert set(found) == {"dpo_pipeline.a", "dpo_pipeline.lazy", "dpo_pipeline.named"}


def test_a_module_that_is_none_is_an_error():
    with pytest.raises(ValueError, match=r"dpo_pipeline\.absent"):
        keys.code_digests(frozenset({"dpo_pipeline.absent"}))


def test_settings_that_cannot_change_a_result_stay_out():
    small, large = GenerationConfig(batch_tokens=512), GenerationConfig(batch_tokens=4096)
    assert keys.settings_of(small) == keys.settings_of(large)
    assert keys.settings_of(small) != keys.settings_of(GenerationConfig(max_new_tokens=9))


def test_explain_names_the_parts_that_differ():
    def parts(beta: float) -> keys.KeyParts:
        settings = keys.settings_of(TrainConfig(beta=beta))
        return keys.stage_parts(
            "train", modules={"dpo_pipeline.errors"}, inputs={"train": settings}
        )

    assert keys.explain(parts(0.1), parts(0.2)) == ["inputs/train/beta"]
    assert keys.explain(parts(0.1), parts(0.1)) == []


def test_a_key_is_the_same_in_every_process():
    code = (
        "from dpo_pipeline.store import digests, keys;"
        "from dpo_pipeline.identity.settings import IdentityConfig;"
        "inputs = keys.settings_of(IdentityConfig(aliases={'b': 'c', 'a': 'd'}));"
        "print(digests.digest_of(keys.stage_parts('x', modules={'dpo_pipeline.identity.names',"
        "'dpo_pipeline.errors'}, packages=('torch', 'pyarrow'), inputs=inputs)))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1
