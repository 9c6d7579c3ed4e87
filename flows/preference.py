"""Train on a preference dataset that already exists: pairs -> policy -> preference measures.

Run it as `python flows/preference.py --config configs/llama-scratch.yaml`.
"""

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
from pydantic import PositiveFloat

from dpo_pipeline.prompts.sources import resolve_source
from flows.settings import Settings, read
from tasks.models import prepare_model
from tasks.outcome import conclude_preferences, lineage_of
from tasks.run import OPTIONS, begin, run_script
from tasks.stages import compare, prepare, save, train


@flow(name="preference", **OPTIONS)
def preference(
    config: str = "",
    model: str = "",
    prompts: str = "",
    beta: PositiveFloat | None = None,
    learning_rate: PositiveFloat | None = None,
    epochs: PositiveFloat | None = None,
    settings: Settings | None = None,
) -> State[None]:
    """Train a policy on preferences that exist, and measure it on pairs it never saw.

    What is left empty comes from the config, else from the defaults.

    Args:
        config: YAML file of settings, such as configs/llama-scratch.yaml.
        model: The model to train: starter, smollm2, a folder, a Hub id or a GGUF file.
        prompts: The preferences: a file, or a Hub dataset.
        beta: Weight on staying near the reference.
        learning_rate: Peak learning rate.
        epochs: Passes over the pairs.
        settings: Any other option of the command line by its name: {"train.batch_size": 4}.
    """
    parameters = {
        "model.name": model,
        "prompts.source": prompts,
        "train.beta": beta,
        "train.learning_rate": learning_rate,
        "train.epochs": epochs,
    }
    return learn(read(PreferenceConfig, config, settings, parameters))


def learn(config: PreferenceConfig) -> State[None]:
    """Take the pairs as they are through training and measuring."""
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
