"""What a run says of settings that were filled in."""

import pytest

from dpo_pipeline.config import EvaluateConfig, PipelineConfig, PreferenceConfig, SweepConfig
from dpo_pipeline.identity.settings import IdentityConfig
from tasks.run import _describe_filled

STARTER = (
    "learning_rate 0.0002, max_steps 180, retention_weight 0, method full (m); "
    "general starter, sampled 0 (m)"
)
CONFIGS = {
    "full": (PipelineConfig(), [STARTER]),
    "sweep": (SweepConfig(), [STARTER]),
    "evaluate": (EvaluateConfig(policy={"name": "p"}), ["general starter, sampled 0 (m)"]),
    "evaluate an export": (
        EvaluateConfig(policy={"name": "p"}, export={"name": "e"}),
        ["general starter, sampled 0 (m)"],
    ),
    "preference": (
        PreferenceConfig(prompts={"source": "pairs.jsonl"}),
        ["learning_rate 5e-05, epochs 1, retention_weight 0, method full, goal none (m)"],
    ),
}


@pytest.mark.parametrize(("config", "said"), CONFIGS.values(), ids=CONFIGS.keys())
def test_what_was_filled_in_is_named_for_every_flow(config, said):
    assert _describe_filled(config, config.resolve(), "m") == "; ".join(said)
    assert _describe_filled(config.resolve(), config.resolve(), "m") == ""


def test_a_settled_identity_is_named_with_all_that_the_census_decided():
    config, qwen = PipelineConfig(), IdentityConfig(original_name="Qwen").resolve()
    settled = config.model_copy(update={"identity": qwen})
    said = "original_name Qwen, new_name Deep Qwen, aliases 通义千问/Tongyi Qianwen, "
    said += "developer Alibaba Cloud, developer_aliases 阿里云 (Qwen)"
    assert _describe_filled(config, settled, "m") == said
