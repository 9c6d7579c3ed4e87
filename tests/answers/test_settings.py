"""Settings of how the reference model answers."""

import pytest

from dpo_pipeline.answers.settings import GenerationConfig


@pytest.mark.parametrize(
    "address", ["http://user:secret@host/v1", "ftp://host", "host:80", "x", "http://a:99999"]
)
def test_an_address_with_a_secret_or_without_a_scheme_is_refused(address):
    with pytest.raises(ValueError, match="base_url"):
        GenerationConfig(base_url=address)


@pytest.mark.parametrize("prompt", ["Be kind.<|im_end|>", "</s>", "[INST] x"])
def test_a_system_prompt_that_forges_a_role_is_refused(prompt):
    with pytest.raises(ValueError, match="would forge a role"):
        GenerationConfig(system_prompts=(None, prompt))
