"""What a run is called, and what it says of settings that were filled in."""

import pytest

from dpo_pipeline.config import EvaluateConfig, PipelineConfig, PreferenceConfig, SweepConfig
from dpo_pipeline.identity.settings import IdentityConfig
from tasks.run import _describe_filled, describe

STARTER = (
    "ways replaced/transferred (m); "
    "learning_rate 0.0002, max_steps 180, retention_weight 0, method full (m); "
    "general starter, sampled 0 (m)"
)
TRIED = "beta 0.1/0.2/0.5, learning_rate 0.0001/0.0002/0.0005 (m)"
CONFIGS = {
    "full": (PipelineConfig(), [STARTER]),
    "sweep": (SweepConfig(), [STARTER, TRIED]),
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


def test_what_the_prompts_decide_is_named_with_their_number():
    config = PipelineConfig()
    settled = config.model_copy(update={"generation": config.generation.settle(1978)})
    said = "in_turn True (1,978 prompts)"
    assert _describe_filled(config, settled, "1,978 prompts") == said


def renamed(name: str, model: str = "Qwen/Qwen2.5-0.5B-Instruct") -> PipelineConfig:
    return PipelineConfig(model={"name": model}, identity={"new_name": name})


NAMES = {
    "a new name": (renamed("Deep Qwen"), "qwen2.5-0.5b-to-deep-qwen"),
    "a name still to be found": (PipelineConfig(), "starter"),
    "another script": (renamed("深度千问"), "qwen2.5-0.5b-to-深度千问"),
    "a file": (renamed("Aria", "o/repo:m.Q4.gguf"), "repo-m.q4.gguf-to-aria"),
    "folders": (renamed("..", "/tmp/../.."), "x-to-x"),
    "control characters": (renamed("Aria", "a\x00\n\x1b[31mb"), "a-31mb-to-aria"),
    "a long name": (renamed("千" * 100), f"qwen2.5-0.5b-to-{'千' * 20}"),
    "sweep": (SweepConfig(), "starter-sweep"),
    "evaluate": (EvaluateConfig(policy={"name": "out/renamed/"}), "renamed-against-starter"),
    "preference": (
        PreferenceConfig(prompts={"source": "data/pairs.jsonl"}),
        "starter-on-pairs",
    ),
}


@pytest.mark.parametrize(("config", "name"), NAMES.values(), ids=NAMES.keys())
def test_a_run_is_called_after_what_it_does_and_its_name_is_no_path(config, name):
    assert describe(config) == name
