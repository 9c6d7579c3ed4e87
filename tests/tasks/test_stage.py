"""A stage's key changes with what its result depends on; all that follow change with it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from identities import DEEP_QWEN
from rewording import in_other_words
from stage_keys import stage_keys
from workplace import ROOT

from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.evaluation.scorecard import Terms
from dpo_pipeline.models.references import ModelRef, ModelStats
from dpo_pipeline.prompts.sources import SHIPPED
from dpo_pipeline.store.artifacts import Artifact
from tasks.stages import evaluate, rewrite

STAGES = [
    *("model", "census", "download", "generate", "instruct", "rewrite", "save", "train", "evaluate")
]
SCRIPT = ROOT / "tests" / "support" / "stage_keys.py"


def changed(now: dict[str, str], before: dict[str, str]) -> list[str]:
    assert list(now) == list(before) == STAGES
    return [name for name in STAGES if now[name] != before[name]]


def since(first: str) -> list[str]:
    return STAGES[STAGES.index(first) :]


SETTINGS = {
    "a publish option": ({"publish": {"model_repo": "me/model"}}, []),
    "the size of a batch": ({"generation": {"batch_tokens": 1}}, []),
    "the address of a server that is not asked": (
        {"generation": {"base_url": "http://127.0.0.1:9/v1"}},
        [],
    ),
    "how often a checkpoint is written": ({"train": {"save_steps": 3}}, []),
    "a line of the gate": ({"gate": {"kl": 0.5}}, ["evaluate"]),
    "how much is measured": ({"evaluation": {"max_prompts": 9}}, ["evaluate"]),
    "the loss": ({"train": {"loss_type": "ipo"}}, since("train")),
    "the beta": ({"train": {"beta": 0.3}}, since("train")),
    "how many pairs are too few": ({"pairs": {"min_pairs": 9}}, since("save")),
    "how pairs are made": ({"pairs": {"ways": ["replaced", "instructed"]}}, since("rewrite")),
    "how many answers are checked": ({"generation": {"check_rows": 3}}, since("generate")),
    "under how many system prompts": ({"generation": {"in_turn": True}}, since("generate")),
    "the length of answers": ({"generation": {"max_new_tokens": 9}}, since("generate")),
    "the seed of the split": ({"prompts": {"seed": 1}}, since("download")),
}


@pytest.mark.parametrize(("settings", "concerned"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a_setting_changes_the_stages_that_read_it_and_those_after(settings, concerned):
    before = stage_keys(PipelineConfig())
    assert changed(stage_keys(PipelineConfig.model_validate(settings)), before) == concerned


def test_where_a_model_or_a_file_was_found_changes_no_key(tmp_path):
    shipped = shutil.copy(SHIPPED, tmp_path / "mine.jsonl")
    before = stage_keys(PipelineConfig())
    assert (
        stage_keys(PipelineConfig(prompts={"source": str(shipped)}))["download"]
        == before["download"]
    )
    here = ModelRef(name="a", path=tmp_path, revision="c1", weights_digest="w", template_digest="t")
    there = here.model_copy(update={"name": "b", "path": Path("/b"), "revision": "c2"})
    other = here.model_copy(update={"weights_digest": "v"})

    def key(ref: ModelRef) -> dict:
        model = Artifact.model_construct(
            stage="model", key=ref.name, digest=ref.name, stats=ModelStats(model=ref)
        )
        return rewrite.key_parts(model=model, identity=DEEP_QWEN)

    assert key(here) == key(there) != key(other)


def test_what_an_evaluation_asks_its_own_way_is_not_in_its_key():
    def key(**generation: object) -> dict:
        config = PipelineConfig(generation=generation)
        terms = Terms(config.identity, config.generation, config.evaluation, config.gate, 0.1)
        return evaluate.key_parts(terms=terms)

    assert key() == key(check_rows=3) == key(max_new_tokens=3) != key(system_prompts=[""])


@pytest.fixture
def copy(tmp_path) -> Path:
    """A private copy of the code, to be edited."""
    for name in ("dpo_pipeline", "tasks", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def keys_in(copy: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "{}"],
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def appended(file: str, text: str = "EDITED = True") -> Callable[[Path], None]:
    def edit(copy: Path) -> None:
        path = copy / file
        path.write_text(f"{path.read_text('utf-8')}\n{text}\n", encoding="utf-8")

    return edit


def edit_help(copy: Path) -> None:
    """Edit the help text of every setting."""
    for path in copy.glob("dpo_pipeline/*/settings.py"):
        path.write_text(in_other_words(path.read_text("utf-8")), encoding="utf-8")
    training = (copy / "dpo_pipeline/training/settings.py").read_text("utf-8")
    assert 'beta: PositiveFloat = 0.2\n    """In other words: ' in training


CODE = {
    "the help text of every setting": (edit_help, []),
    "the report": (appended("dpo_pipeline/report/page.py"), []),
    "publishing": (appended("dpo_pipeline/publishing/cards.py"), []),
    "the record of a run": (appended("tasks/run.py"), []),
    "a remark": (appended("dpo_pipeline/training/trainer.py", "# A remark."), []),
    "the trainer": (appended("dpo_pipeline/training/trainer.py"), since("train")),
    "the measures": (appended("dpo_pipeline/evaluation/measures.py"), ["evaluate"]),
    "the census": (appended("dpo_pipeline/answers/census.py"), ["census"]),
    "the starter's weights": (
        appended("dpo_pipeline/starter/data/model/config.json", ""),
        ["model", "census", *since("generate")],
    ),
}


@pytest.mark.parametrize(("edit", "concerned"), CODE.values(), ids=CODE.keys())
def test_an_edit_changes_the_stages_that_run_it_and_those_after(copy, edit, concerned):
    before = keys_in(copy)
    edit(copy)
    assert changed(keys_in(copy), before) == concerned
