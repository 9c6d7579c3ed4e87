"""Keys change with what a result depends on, and with nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.store import keys
from dpo_pipeline.training.settings import TrainConfig

PROJECT = Path(keys.__file__).parents[1]


@pytest.fixture
def copied_package(tmp_path, monkeypatch):
    """Give `keys` a private copy of the package to read, and edit."""
    folder = tmp_path / "dpo_pipeline"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(keys, "_PACKAGE_FOLDER", folder)
    keys.code_digests.cache_clear()
    yield folder
    keys.code_digests.cache_clear()


def digests_after_edit(folder: Path, module: str, edited: str) -> tuple[dict, dict]:
    before = keys.code_digests(module)
    path = folder.joinpath(*edited.split("/"))
    path.write_text(path.read_text() + "\n# edited\n")
    keys.code_digests.cache_clear()
    return before, keys.code_digests(module)


@pytest.mark.parametrize(
    ("module", "edited", "changes"),
    [
        ("dpo_pipeline.pairs.rewriting", "identity/names.py", True),
        ("dpo_pipeline.pairs.rewriting", "pairs/rewriting.py", True),
        ("dpo_pipeline.pairs.rewriting", "evaluation/scorecard.py", False),
        ("dpo_pipeline.answers.collecting", "models/references.py", True),
        ("dpo_pipeline.answers.collecting", "pairs/rewriting.py", False),
        ("dpo_pipeline.answers.collecting", "training/child.py", False),
        ("dpo_pipeline.evaluation.scorecard", "identity/names.py", True),
        ("dpo_pipeline.evaluation.scorecard", "training/loss.py", True),
        ("dpo_pipeline.evaluation.scorecard", "training/child.py", False),
        ("dpo_pipeline.training.child", "training/shared_prefixes.py", True),
        ("dpo_pipeline.training.child", "answers/collecting.py", False),
        ("dpo_pipeline.training.child", "evaluation/measures.py", False),
        ("dpo_pipeline.training.early_stopping", "evaluation/measures.py", True),
        ("dpo_pipeline.prompts.preparation", "identity/names.py", True),
        ("dpo_pipeline.prompts.preparation", "answers/collecting.py", False),
        ("dpo_pipeline.starter.build", "starter/corpus.py", True),
        ("dpo_pipeline.starter.build", "prompts/preparation.py", False),
    ],
)
def test_an_edit_changes_the_stages_that_import_the_module(copied_package, module, edited, changes):
    before, after = digests_after_edit(copied_package, module, edited)
    assert (before != after) is changes


def test_lazy_imports_count_and_type_checking_imports_do_not(tmp_path, monkeypatch):
    folder = tmp_path / "dpo_pipeline"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from dpo_pipeline import typed\n"
        "def late():\n    from . import lazy\n    import dpo_pipeline.named as n\n"
    )
    for name in ("lazy", "named", "typed", "stranger"):
        (folder / f"{name}.py").write_text("")
    monkeypatch.setattr(keys, "_PACKAGE_FOLDER", folder)
    keys.code_digests.cache_clear()
    found = keys.code_digests("dpo_pipeline.a")
    keys.code_digests.cache_clear()
    assert set(found) == {
        "dpo_pipeline",
        "dpo_pipeline.a",
        "dpo_pipeline.lazy",
        "dpo_pipeline.named",
    }


def test_settings_that_cannot_change_a_result_stay_out():
    small, large = GenerationConfig(batch_tokens=512), GenerationConfig(batch_tokens=4096)
    assert keys.settings_of(small) == keys.settings_of(large)
    assert keys.settings_of(small) != keys.settings_of(GenerationConfig(max_new_tokens=9))


def test_explain_names_the_parts_that_differ():
    def parts(beta: float) -> keys.KeyParts:
        settings = keys.settings_of(TrainConfig(beta=beta))
        return keys.stage_parts("train", module="dpo_pipeline.errors", inputs={"train": settings})

    assert keys.explain(parts(0.1), parts(0.2)) == ["inputs/train/beta"]
    assert keys.explain(parts(0.1), parts(0.1)) == []


def test_a_key_is_the_same_in_every_process():
    code = (
        "from dpo_pipeline import keys; from dpo_pipeline.config import IdentityConfig;"
        "inputs = keys.settings_of(IdentityConfig(aliases={'b': 'c', 'a': 'd'}));"
        "print(keys.digest_of(keys.stage_parts('x', module='dpo_pipeline.identity.names',"
        "packages=('torch',), inputs=inputs)))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1
