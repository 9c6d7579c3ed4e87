"""Configurations: defaults that fit the model, files that load, mistakes that are named."""

import pytest
import yaml
from conftest import ROOT
from pydantic import ValidationError

from dpo_pipeline.config import IdentityConfig, ModelConfig, PipelineConfig, PreferenceConfig


@pytest.mark.parametrize("model", [{"name": "starter"}, ModelConfig()], ids=["dict", "section"])
def test_the_starter_has_training_settings_of_its_own(model):
    assert PipelineConfig(model=model).train.learning_rate == 3e-4
    assert PipelineConfig().train.sft_weight == 0.2


def test_another_model_has_the_common_recipe():
    train = PipelineConfig.model_validate({"model": {"name": "Qwen/Qwen2.5-0.5B-Instruct"}}).train
    recipe = (train.beta, train.learning_rate, train.batch_size, train.epochs)
    assert recipe == (0.2, 5e-5, 8, 1.0)


def test_a_given_setting_wins_over_the_starters():
    train = PipelineConfig.model_validate({"train": {"learning_rate": 1e-3}}).train
    assert (train.learning_rate, train.sft_weight) == (1e-3, 0.2)


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


@pytest.mark.parametrize(
    "wrong",
    [{"train": {"bta": 1}}, {"train": {"beta": 0}}, {"identity": {"new_name": "Qwen"}}, {"x": 1}],
)
def test_mistakes_are_refused(wrong):
    with pytest.raises(ValidationError):
        PipelineConfig.model_validate(wrong)


def test_every_field_says_what_it_means():
    def fields(model):
        for name, field in model.model_fields.items():
            yield f"{model.__name__}.{name}", field.description
            if hasattr(field.annotation, "model_fields"):
                yield from fields(field.annotation)

    assert [name for name, text in fields(PipelineConfig) if not text] == []
