"""What a run is asked for comes to the same from a file, from settings and from parameters."""

import pytest
from prefect.utilities.callables import parameter_schema

from dpo_pipeline.config import EvaluateConfig, PipelineConfig
from dpo_pipeline.errors import SettingsError
from flows.evaluate import evaluate
from flows.full import full
from flows.preference import preference
from flows.settings import read
from flows.sweep import sweep

FLOWS = (full, sweep, evaluate, preference)


def test_parameters_go_over_settings_and_these_over_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {beta: 0.1, seed: 1, warmup: 0.2}\nidentity: {new_name: Aria}\n")
    config = read(
        PipelineConfig,
        str(file),
        {"train.seed": 2, "train": {"batch_size": 4}, "publish.dry-run": False, "train.goal": None},
        {"train.beta": 0.3, "identity.new_name": None, "model.name": ""},
    )
    train = config.train
    assert (train.beta, train.seed, train.warmup, train.batch_size) == (0.3, 2, 0.2, 4)
    assert train.goal is None
    assert config.identity.new_name == "Aria"
    assert config.model.name == "starter"
    assert not config.publish.dry_run


def test_a_config_is_found_from_here_else_where_the_project_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read(PipelineConfig, "configs/smollm2.yaml", None, {}).model.name == "smollm2"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "smollm2.yaml").write_text("model: {name: my/own}")
    assert read(PipelineConfig, "configs/smollm2.yaml", None, {}).model.name == "my/own"


WRONG = {
    "no such file": ("configs/absent.yaml", {}, "configs/absent.yaml: no such file"),
    "no such setting": ("", {"train.bta": 1}, "train.bta: no such setting"),
    "a section for a value": ("", {"train": 1}, "train: Input should be"),
    "a value out of range": ("", {"train.beta": -1}, "train.beta: .* greater than 0, got -1"),
    "a token": ("", {"publish.token": "hf_abcdefgh12345678"}, "publish.token: no such setting"),
    "a token for a name": ("", {"publish.model_repo": "hf_abcdefgh12345678/x/y"}, r"\*\*\*"),
}


@pytest.mark.parametrize(("config", "settings", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(config, settings, said):
    with pytest.raises(SettingsError, match=said) as error:
        read(PipelineConfig, config, settings, {})
    assert "abcdefgh" not in str(error.value)


def test_what_is_missing_is_named():
    with pytest.raises(SettingsError, match="policy: nothing given"):
        read(EvaluateConfig, "", None, {"policy.name": None})


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_the_form_of_a_flow_is_short_and_described(flow):
    fields = parameter_schema(flow).properties
    assert len(fields) <= 11
    for field in fields.values():
        assert field["description"]
        # A form sends every field; what it sends for an empty one must be taken.
        plain = (field.get("type"), field["default"]) == ("string", "")
        assert plain or {"type": "null"} in field["anyOf"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: [1]\n", "'train' is no section"),
        ("train: fast\n", "'train' is no section"),
        ("train:\n  seed: 1\n  seed: 2\n", "'seed' comes twice"),
        ("train: &t {seed: 1}\ngeneration: *t\n", "alias"),
    ],
)
def test_a_damaged_file_is_refused_and_no_part_of_it_dropped(tmp_path, text, said):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=said):
        read(PipelineConfig, str(path), None, {})
