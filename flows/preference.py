"""Train on a preference dataset that already exists: pairs -> policy -> preference measures.

Run it as `python flows/preference.py --config configs/llama-scratch.yaml`.
"""

import sys
from typing import Any

from dpo_pipeline.config import PreferenceConfig
from flows.cli import parse
from tasks.runtime import prepare_environment

if __name__ == "__main__":
    CONFIG = parse(
        PreferenceConfig,
        sys.argv[1:],
        prog="flows/preference.py",
        description="Train with DPO on chosen and rejected answers that already exist.",
        example="--config configs/llama-scratch.yaml",
    )
    prepare_environment(script=True)
else:
    prepare_environment(script=False)

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.proof import conclude_preferences
from tasks.run import begin, run_script
from tasks.stages import compare, prepare, prepare_model, save, train


@flow(name="preference", log_prints=True, persist_result=False)
def preference(config: PreferenceConfig) -> State[Any]:
    """Train a policy on preferences that exist, and measure it on pairs it never saw.

    Args:
        config: One section per stage; every field has its meaning, unit and default.
    """
    run, config = begin(config)
    model = run.stage(prepare_model, config.model)
    pairs = run.stage(prepare, model, config.prompts, config.pairs)
    dataset = run.stage(save, pairs, config.pairs, run.lineage(model, pairs))
    policy = run.stage(train, model, dataset, config.train, config.model)
    score = run.stage(
        compare, model, policy, dataset, config.train, config.evaluation, config.model
    )
    return conclude_preferences(run, dataset=dataset, policy=policy, score=score)


if __name__ == "__main__":
    sys.exit(run_script(preference, CONFIG))
