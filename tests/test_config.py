"""Configurations: defaults that fit the model, files that load, mistakes that are named."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from workplace import ROOT

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.config import EvaluateConfig, PipelineConfig, PreferenceConfig, SweepConfig
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.prompts.formats import READERS
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.training.settings import TrainConfig
from flows.cli import parse
from flows.settings import read


def test_what_the_model_decides_is_filled_in_and_what_is_given_stays():
    def recipe(**sections):
        train = PipelineConfig.model_validate(sections).resolve().train
        return train.learning_rate, train.retention_weight

    other = {"name": "Qwen/Qwen2.5-0.5B-Instruct"}
    assert recipe() == recipe(model=ModelConfig()) == recipe(model={}) == (2e-4, 0.0)
    assert recipe(train={"learning_rate": 1e-3}) == (1e-3, 0.0)
    assert recipe(model=other) == (3e-4, 4.0)
    assert recipe(model=other, train={"retention_weight": 0.5}) == (3e-4, 0.5)


def test_another_model_has_the_common_recipe():
    config = PipelineConfig.model_validate({"model": {"name": "Qwen/Qwen2.5-0.5B-Instruct"}})
    train = config.resolve().train
    recipe = (train.method, train.learning_rate, train.batch_size, train.max_steps, train.epochs)
    assert recipe == ("lora", 3e-4, 8, 120, None)
    by_epochs = TrainConfig(epochs=2.0).resolve("a/b")
    assert (by_epochs.max_steps, by_epochs.epochs) == (None, 2.0)
    with pytest.raises(ValidationError, match="give one of them"):
        TrainConfig(epochs=1.0, max_steps=3)


def test_preferences_have_no_goal_and_all_weights():
    config = PreferenceConfig(prompts={"source": "a/b", "shape": "preference"}).resolve()
    train = config.train
    assert (train.method, train.goal, train.retention_weight) == ("full", None, 0.0)


def test_a_server_knows_the_model_by_its_own_name_unless_another_is_given():
    def served(**generation):
        config = {"model": {"name": "a/b"}, "generation": generation}
        return PipelineConfig.model_validate(config).resolve().generation.served_model

    assert served(engine="openai") == "a/b"
    assert served(engine="openai", served_model="c") == "c"
    assert served() is None  # nothing reads it, and a model is known by its weights


# One run, whichever way it is asked for. Settings that another one decides stay open until then.
WAYS = {
    "nothing given": (PipelineConfig, {}),
    "another model": (
        PipelineConfig,
        {
            "model": {"name": "a/b"},
            "identity": {"original_name": "SmolLM", "new_name": "Aria"},
            "generation": {"engine": "openai"},
        },
    ),
    "another name": (PipelineConfig, {"identity": {"new_name": "Aria", "new_developer": "Labs"}}),
    "a maker given": (
        PipelineConfig,
        {"identity": {"aliases": {"Q": ""}, "developer": None}, "train": {"learning_rate": 1e-3}},
    ),
    "sweep": (SweepConfig, {"grid": {"beta": [0.1]}}),
    "evaluate": (EvaluateConfig, {"policy": {"name": "a/b"}}),
    "preference": (PreferenceConfig, {"prompts": {"source": "a/b", "shape": "preference"}}),
}


@pytest.mark.parametrize(("kind", "given"), WAYS.values(), ids=WAYS)
def test_deployment_file_and_command_line_ask_for_the_same_run(kind, given, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(given))
    options = [
        (f"--{section}.{name}".replace("_", "-"), value)
        for section, fields in given.items()
        for name, value in fields.items()
    ]
    argv = [
        word
        for name, value in options
        for word in (name, value if isinstance(value, str) else json.dumps(value))
    ]
    dotted = {name.removeprefix("--"): value for name, value in options}
    asked = kind.model_validate(given)
    expected = asked.resolve()
    assert expected.resolve() == expected
    sent = (asked.model_dump(mode="json"), expected.model_dump(mode="json"))
    for config in (
        *map(kind.model_validate, sent),
        read(kind, str(file), None, {}),
        read(kind, "", given, {}),
        read(kind, "", dotted, {}),
        run(*argv, model=kind),
        run("--config", str(file), model=kind),
    ):
        assert config.resolve() == expected
        assert settings_of(config.resolve()) == settings_of(expected)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_shipped_configs_load(path):
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    preference = loaded["prompts"].get("shape") == "preference"
    config = (PreferenceConfig if preference else PipelineConfig).model_validate(loaded)
    assert config.prompts.source == loaded["prompts"]["source"]


def test_the_starter_config_asks_for_the_default_run():
    loaded = yaml.safe_load((ROOT / "configs" / "starter.yaml").read_text(encoding="utf-8"))
    assert PipelineConfig.model_validate(loaded).resolve() == PipelineConfig().resolve()


WRONG = {
    "train.bta": ({"train": {"bta": 1}}, "Extra inputs"),
    "x": ({"x": 1}, "Extra inputs"),
    "train.beta": ({"train": {"beta": 0}}, "greater than 0"),
    "train.learning_rate": ({"train": {"learning_rate": math.inf}}, "finite number"),
    "gate.tail_gap": ({"gate": {"tail_gap": math.nan}}, "finite number"),
    "identity": (
        {"identity": {"original_name": "Qwen", "new_name": "Qwen"}},
        "nothing to learn",
    ),
    "prompts.held_out": ({"prompts": {"held_out": 1}}, "less than 1"),
    "prompts.near_duplicate": ({"prompts": {"near_duplicate": 0}}, "greater than 0"),
    "evaluation.temperatures.0": ({"evaluation": {"temperatures": [0]}}, "greater than 0"),
    "generation": ({"generation": {"samples": 2}}, "needs temperature > 0"),
    "train.lora": ({"train": {"lora": {"quantize": True}}}, "set merge to false"),
    "train": ({"train": {"batch_size": 8, "processes": 3}}, "make it a multiple"),
}
TOGETHER = [
    ({"prompts": {"held_out": 0}}, "prompts.held_out is 0.*leave it at 0.15"),
    ({"train": {"accelerate": "ddp.yaml"}}, "give processes, too"),
    ({"train": {"max_length": 512}}, "pairs.max_length is 1024.*give both the same value"),
    (
        {
            "model": {"device": "cpu"},
            "train": {"lora": {"quantize": True, "merge": False}},
        },
        "needs a GPU.*set quantize to false",
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
        (["--publish.model-repo", "me/hf_abcdefgh12345678/x"], "me/***/x"),
        (["--publish.token", "hf_abcdefgh12345678"], "--publish.token: no such option"),
        (["--config", "hf_abcdefgh12345678"], "config ***: no such file"),
        (["--generation.base-url", "https://ORG:abcdefgh12345678@h/v1"], "holds no user, password"),
        (["--generation.base-url", "ORG:abcdefgh12345678@h/v1"], "base_url is an http(s) address"),
    ],
)
def test_a_token_in_the_wrong_place_is_refused_and_not_repeated(capsys, argv, said):
    with pytest.raises(SystemExit):
        run(*argv)
    shown = capsys.readouterr().err
    assert said in shown
    assert "abcdefgh12345678" not in shown
    assert "ORG" not in shown


def test_a_file_does_not_say_who_gets_the_key(capsys, tmp_path):
    file = tmp_path / "from-the-web.yaml"
    file.write_text("generation: {base_url: 'http://evil.example/v1', key_host: evil.example}")
    with pytest.raises(SystemExit):
        run("--config", str(file))
    assert "key_host is read from the command line alone" in capsys.readouterr().err
    config = run("--generation.key-host", "vllm.example").generation
    assert config.key_host == "vllm.example"


def test_prefects_server_refuses_an_address_with_a_password_by_the_schema():
    schema = PipelineConfig.model_json_schema()["$defs"]["GenerationConfig"]["properties"]
    pattern = re.compile(schema["base_url"]["pattern"])
    for url in ("https://u:p@h/v1", "https://u@h/v1", "https://h/v1?key=k", "https://h/v1#k", "h"):
        assert not pattern.search(url)
        with pytest.raises(ValidationError):
            GenerationConfig(base_url=url)
    assert pattern.search(GenerationConfig(base_url="https://h:8/a/b@c/v1").base_url)


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
        (folder, ["beside.jsonl", "held.jsonl", "both.json"]),
        (here, ["here.jsonl", "both.json"]),
    ):
        place.mkdir()
        for name in names:
            (place / name).touch()
    monkeypatch.chdir(here)
    (folder / "run.yaml").write_text(
        "model: {name: both.json}\nprompts: {source: beside.jsonl, retention: held.jsonl}\n"
        "evaluation: {general: here.jsonl}\n"
    )
    config = run("--config", "../configs/run.yaml")
    assert config.model.name == str(folder / "both.json")
    assert config.prompts.source == str(folder / "beside.jsonl")
    assert config.prompts.retention == str(folder / "held.jsonl")
    assert config.evaluation.general == "here.jsonl"
    # What the command line names is meant from here.
    config = run("--config", "../configs/run.yaml", "--model.name", "both.json")
    assert config.model.name == "both.json"


@pytest.mark.parametrize("ending", READERS)
def test_a_file_that_is_nowhere_is_told_with_both_places(tmp_path, monkeypatch, capsys, ending):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.yaml").write_text(f"prompts: {{source: data/absent{ending}}}\n")
    with pytest.raises(SystemExit):
        run("--config", "configs/run.yaml")
    shown = capsys.readouterr().err
    assert f"prompts.source 'data/absent{ending}'" in shown
    assert f"{tmp_path}/configs/data/absent{ending}" in shown
    assert f"{tmp_path}/data/absent{ending}" in shown


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
    assert "(starter: 0.0002, others: 0.0003). (default: null)" in shown
    assert "names none. (default: auto)" in shown
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


@pytest.mark.parametrize(
    ("section", "field"),
    [("train", "seed"), ("prompts", "seed"), ("generation", "seed"), ("evaluation", "max_prompts"),
     ("gate", "min_answers")],
)  # fmt: skip
@pytest.mark.parametrize("number", [2**31, 2**64, 10**30])
def test_a_number_that_databases_cannot_hold_is_refused(section, field, number):
    with pytest.raises(ValidationError, match="less than or equal to 2147483647"):
        PipelineConfig.model_validate({section: {field: number}})
