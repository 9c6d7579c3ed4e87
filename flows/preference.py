"""Train on a preference dataset that already exists: pairs -> policy -> preference measures.

Run it as `python flows/preference.py --config configs/llama-scratch.yaml`.
"""

from typing import Any

from dpo_pipeline.config import PreferenceConfig
from flows.cli import start

CONFIG = start(
    __name__,
    PreferenceConfig,
    description="Train with DPO on chosen and rejected answers that already exist.",
    example="--config configs/llama-scratch.yaml",
)

from prefect import flow
from prefect.client.schemas.objects import State

from dpo_pipeline.prompts.sources import resolve_source
from tasks.outcome import conclude_preferences, lineage_of
from tasks.run import begin, run_script
from tasks.stages import compare, prepare, prepare_model, save, train


@flow(name="preference", log_prints=True, persist_result=False)
def preference(config: PreferenceConfig) -> State[Any]:
    """Train a policy on preferences that exist, and measure it on pairs it never saw.

    Args:
        config: One section per stage; every field has its meaning, unit and default.
    """
    run, config = begin(config)
    model = prepare_model(config.model)
    pairs = prepare(
        model=model,
        source=resolve_source(config.prompts),
        prompts=config.prompts,
        pairs=config.pairs,
    )
    dataset = save(pairs=pairs, config=config.pairs, lineage=lineage_of(config, model, pairs))
    policy = train(model=model, dataset=dataset, config=config.train, run_on=config.model)
    score = compare(
        reference=model,
        policy=policy,
        dataset=dataset,
        beta=config.train.beta,
        max_pairs=config.evaluation.max_pairs,
        run_on=config.model,
    )
    return conclude_preferences(run, dataset, policy, score)


run_script(preference, CONFIG)
