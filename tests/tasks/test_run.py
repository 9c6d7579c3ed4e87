"""What a run says of settings that were filled in."""

import pytest

from dpo_pipeline.config import EvaluateConfig, PipelineConfig, PreferenceConfig, SweepConfig
from tasks.run import _describe_filled

QWENS = "aliases 通义千问/Tongyi Qianwen, developer Alibaba Cloud, developer_aliases 阿里云 (Qwen)"
STARTER = "learning_rate 0.0002, epochs 1, retention_weight 0, method full (m)"
CONFIGS = {
    "full": (PipelineConfig(), [QWENS, STARTER]),
    "sweep": (SweepConfig(), [QWENS, STARTER]),
    "evaluate": (EvaluateConfig(policy={"name": "p"}), [QWENS]),
    "evaluate an export": (
        EvaluateConfig(policy={"name": "p"}, export={"name": "e"}),
        [QWENS],
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
