"""A model with random weights, from a config.json."""

from pathlib import Path

import pytest

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.chat_templates import encode
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.starter.random_model import init_model

ROOT = Path(__file__).parents[2]


def user(text):
    return {"role": "user", "content": text}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scratch")
    stats = init_model(ROOT / "examples" / "llama-tiny.json", folder)
    return stats, describe_model(folder, "scratch")


def test_a_model_from_scratch_is_what_its_config_says(scratch):
    stats, ref = scratch
    model, tokenizer = load_model(ref, "cpu"), load_tokenizer(ref)
    assert model.config.model_type == "llama"
    assert model.config.num_hidden_layers == 3
    assert stats.parameters == model.num_parameters() > 100_000
    text = "Where does the camel live? 骆驼住在哪里？"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    prompt = encode(tokenizer, [user(text)])
    assert 20 < len(prompt) < 80
    assert max(prompt) < model.config.vocab_size == stats.vocabulary == len(tokenizer)


def test_a_config_that_describes_nothing_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"hidden_size": 8}')
    with pytest.raises(ModelError, match="model_type"):
        init_model(path, tmp_path)
