"""Configurations: defaults that fit the model, files that load, mistakes that are named."""

import math
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from workplace import ROOT

from dpo_pipeline.config import EvaluateConfig, PipelineConfig, PreferenceConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.settings import ModelConfig
from flows.cli import parse


@pytest.mark.parametrize("model", [{"name": "starter"}, ModelConfig()], ids=["dict", "section"])
def test_the_starter_has_training_settings_of_its_own(model):
    assert PipelineConfig(model=model).train.learning_rate == 2e-4
    assert PipelineConfig().train.sft_weight == 1.0


def test_another_model_has_the_common_recipe():
    train = PipelineConfig.model_validate({"model": {"name": "Qwen/Qwen2.5-0.5B-Instruct"}}).train
    recipe = (train.beta, train.learning_rate, train.batch_size, train.epochs)
    assert recipe == (0.2, 5e-5, 8, 1.0)


def test_a_given_setting_wins_over_the_starters():
    train = PipelineConfig.model_validate({"train": {"learning_rate": 1e-3}}).train
    assert (train.learning_rate, train.sft_weight) == (1e-3, 1.0)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_configs_load(path):
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    preference = loaded["prompts"].get("shape") == "preference"
    config = (PreferenceConfig if preference else PipelineConfig).model_validate(loaded)
    assert config.prompts.source == loaded["prompts"]["source"]


def test_the_starter_config_is_the_default():
    loaded = yaml.safe_load((ROOT / "configs" / "starter.yaml").read_text(encoding="utf-8"))
    assert PipelineConfig.model_validate(loaded) == PipelineConfig()


def test_aliases_follow_the_new_name():
    assert set(IdentityConfig(new_name="Aria").aliases.values()) == {"Aria"}


def test_qwens_aliases_and_maker_are_not_another_models():
    other = IdentityConfig(original_name="SmolLM", new_name="Aria")
    assert (other.aliases, other.developer, other.developer_aliases) == ({}, None, ())


SILENT = {"identity": {"developer": None, "developer_aliases": []}}
WRONG = {
    "train.bta": ({"train": {"bta": 1}}, "Extra inputs"),
    "x": ({"x": 1}, "Extra inputs"),
    "train.beta": ({"train": {"beta": 0}}, "greater than 0"),
    "train.learning_rate": ({"train": {"learning_rate": math.inf}}, "finite number"),
    "gate.tail_gap": ({"gate": {"tail_gap": math.nan}}, "finite number"),
    "identity": ({"identity": {"new_name": "Qwen"}}, "nothing to learn"),
    "prompts.held_out": ({"prompts": {"held_out": 1}}, "less than 1"),
    "prompts.near_duplicate": ({"prompts": {"near_duplicate": 0}}, "greater than 0"),
    "evaluation.temperatures.0": ({"evaluation": {"temperatures": [0]}}, "greater than 0"),
    "generation": ({"generation": {"samples": 2}}, "needs temperature > 0"),
    "train.lora": ({"train": {"lora": {"quantize": True}}}, "set merge to false"),
    "train": ({"train": {"batch_size": 8, "processes": 3}}, "make it a multiple"),
}
TOGETHER = [
    ({"prompts": {"held_out": 0}}, "prompts.held_out is 0.*leave it at 0.15"),
    ({"train": {"max_length": 512}}, "pairs.max_length is 1024.*give both the same value"),
    (
        {
            "model": {"device": "cpu"},
            "train": {"lora": {"quantize": True, "merge": False}},
        },
        "needs a GPU.*set quantize to false",
    ),
    (
        {**SILENT, "pairs": {"strategy": "template", "templates": {"en": ["By {developer}"]}}},
        "identity.developer is null: set it",
    ),
]


@pytest.mark.parametrize("place", WRONG)
def test_a_wrong_setting_is_named_with_its_remedy(place):
    wrong, remedy = WRONG[place]
    with pytest.raises(ValidationError, match=remedy) as error:
        PipelineConfig.model_validate(wrong)
    assert [".".join(map(str, e["loc"])) for e in error.value.errors()] == [place]


@pytest.mark.parametrize(("wrong", "remedy"), TOGETHER)
def test_settings_that_do_not_fit_each_other_are_refused(wrong, remedy):
    with pytest.raises(ValidationError, match=remedy):
        PipelineConfig.model_validate(wrong)


def test_settings_of_other_flows_that_cannot_work_are_refused():
    with pytest.raises(ValidationError, match="nothing would be left to measure on"):
        EvaluateConfig.model_validate({"policy": {}, "prompts": {"held_out": 0}})
    with pytest.raises(ValidationError, match="no preferences: name a file"):
        PreferenceConfig.model_validate({"prompts": {}})
    with pytest.raises(ValidationError, match="give both the same value"):
        PreferenceConfig.model_validate({"prompts": {"source": "a/b"}, "train": {"max_length": 9}})


# The command line


def run(*argv: str, model=PipelineConfig):
    return parse(model, argv, prog="flows/x.py", description="x", example="--config good.yaml")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--train.beta", "inf"], "train.beta: Input should be a finite number, got 'inf'"),
        (["--train.max-length", "512"], "  pairs.max_length is 1024, and train.max_length = 512"),
        (["--train.lora.quantize"], "  train.lora: quantize keeps an adapter beside its base"),
        (["--train.lora.merge", "false"], "takes no value: --section.switch or --no-section"),
        (["--train.bta", "1"], "--train.bta: no such option; near: --train.beta"),
        (["--config", "absent.yaml"], "absent.yaml: no such file"),
    ],
)
def test_a_wrong_command_ends_with_a_reason(capsys, argv, said):
    with pytest.raises(SystemExit) as end:
        run(*argv)
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert said in shown
    assert "Value error" not in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--publish.token-block", "hf_abcdefgh12345678"], "publish.token_block: String should"),
        (["--publish.token-block", "Api_ORG 1234"], "publish.token_block: String should"),
        (["--publish.private", "hf_abcdefgh12345678"], "no such option"),
        (["--publish.model-repo", "me/hf_abcdefgh12345678/x"], "me/hf_***/x"),
        (["--publish.token", "hf_abcdefgh12345678"], "--publish.token: no such option"),
        (["--config", "hf_abcdefgh12345678"], "--config hf_***: no such file"),
    ],
)
def test_a_token_in_the_wrong_place_is_refused_and_not_repeated(capsys, argv, said):
    with pytest.raises(SystemExit):
        run(*argv)
    shown = capsys.readouterr().err
    assert said in shown
    assert "abcdefgh12345678" not in shown
    assert "ORG" not in shown


@pytest.mark.parametrize(
    ("model", "missing"), [(PreferenceConfig, "prompts"), (EvaluateConfig, "policy")]
)
def test_a_missing_section_is_named_with_a_command_that_works(capsys, model, missing):
    with pytest.raises(SystemExit):
        run(model=model)
    shown = capsys.readouterr().err
    assert f"{missing}: nothing given; set --{missing}..." in shown
    assert "for example: python flows/x.py --config good.yaml" in shown


def test_files_are_found_beside_the_yaml_that_names_them_else_from_here(tmp_path, monkeypatch):
    folder, here = tmp_path / "configs", tmp_path / "here"
    for place, names in (
        (folder, ["beside.jsonl", "both.json"]),
        (here, ["here.jsonl", "both.json"]),
    ):
        place.mkdir()
        for name in names:
            (place / name).touch()
    monkeypatch.chdir(here)
    (folder / "run.yaml").write_text(
        "model: {name: both.json}\nprompts: {source: beside.jsonl}\n"
        "evaluation: {general: here.jsonl}\n"
    )
    config = run("--config", "../configs/run.yaml")
    assert config.model.name == str(folder / "both.json")
    assert config.prompts.source == str(folder / "beside.jsonl")
    assert config.evaluation.general == "here.jsonl"
    # What the command line names is meant from here.
    config = run("--config", "../configs/run.yaml", "--model.name", "both.json")
    assert config.model.name == "both.json"


def test_a_file_that_is_nowhere_is_told_with_both_places(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text("prompts: {source: data/absent.csv}\n")
    with pytest.raises(SystemExit):
        run("--config", "configs/run.yaml")
    shown = capsys.readouterr().err
    assert "prompts.source 'data/absent.csv'" in shown
    assert f"{tmp_path}/configs/data/absent.csv" in shown
    assert f"{tmp_path}/data/absent.csv" in shown


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_configs_work_from_any_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preference = "shape: preference" in path.read_text(encoding="utf-8")
    config = run("--config", str(path), model=PreferenceConfig if preference else PipelineConfig)
    for name in (config.model.name, config.prompts.source):
        assert Path(name).is_file() or "." not in Path(name).suffix or "/" in name, name


def test_help_is_for_people(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for noise in (
        "typing.",
        "Undefined",
        "factory",
        "tuple[",
        "dict[",
        "NoneType",
        "(None",
        "ifdef",
        "(('",
    ):
        assert noise not in shown
    assert "--identity.developer-aliases JSON" in shown
    assert '(default: ["阿里云"])' in shown
    assert '(default: [null, "You are a helpful assistant.", ""])' in shown
    assert "refuse a public one. (default: on)" in shown
    assert "--train.beta float" in shown


def test_every_field_says_what_it_means():
    def fields(model):
        for name, field in model.model_fields.items():
            yield f"{model.__name__}.{name}", field.description
            if hasattr(field.annotation, "model_fields"):
                yield from fields(field.annotation)

    assert [name for name, text in fields(PipelineConfig) if not text] == []
