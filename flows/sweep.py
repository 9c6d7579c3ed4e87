"""Several trainings on one cached dataset: prompts -> pairs once, then policy -> scorecard each.

Run it as `python flows/sweep.py --grid.beta 0.1,0.2 --grid.learning-rate 1e-4,3e-4`.
"""

from typing import Any

from dpo_pipeline.config import SweepConfig
from flows.cli import start

CONFIG = start(
    __name__,
    SweepConfig,
    description="Try training settings on one dataset and compare their scorecards.",
    example="--grid.beta 0.1,0.2 --train.epochs 2",
)

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.report.page import Compared
from dpo_pipeline.store.settings import AtLeastOne
from flows.full import make_dataset, train_and_score
from flows.settings import Settings, read
from tasks.outcome import conclude_sweep
from tasks.run import OPTIONS, begin, run_script


@flow(name="sweep", **OPTIONS)
def sweep(
    config: str = "",
    model: str = "",
    new_name: str = "",
    new_developer: str = "",
    prompts: str = "",
    beta: list[PositiveFloat] | None = None,
    learning_rate: list[PositiveFloat] | None = None,
    sft_weight: list[NonNegativeFloat] | None = None,
    seed: list[NonNegativeInt] | None = None,
    max_steps: AtLeastOne | None = None,
    settings: Settings | None = None,
) -> State[Any]:
    """Train with every combination of settings on the same pairs, and compare the scorecards.

    Ends as Completed when one of them passes the gate. Trainings share the reference's
    log-probabilities, and what one of them finished is cached for the next run. What is left
    empty comes from the config, else from the defaults.

    Args:
        config: YAML file of settings, such as configs/smollm2.yaml.
        model: The model to rename: starter, smollm2, a folder, a Hub id or a GGUF file.
        new_name: The name that it shall give.
        new_developer: The maker that it shall name; empty keeps the one before.
        prompts: The questions: shipped, a file, or a Hub dataset.
        beta: Values to try of the weight on staying near the reference.
        learning_rate: Values to try of the peak learning rate.
        sft_weight: Values to try of the weight of the chosen answer by itself.
        seed: Values to try of the seed.
        max_steps: Budget of optimizer steps of each training.
        settings: Any other option of the command line by its name: {"grid.epochs": [1, 2]}.
    """
    parameters = {
        "model.name": model,
        "identity.new_name": new_name,
        "identity.new_developer": new_developer,
        "prompts.source": prompts,
        "grid.beta": beta,
        "grid.learning_rate": learning_rate,
        "grid.sft_weight": sft_weight,
        "grid.seed": seed,
        "train.max_steps": max_steps,
    }
    return try_all(read(SweepConfig, config, settings, parameters))


def try_all(config: SweepConfig) -> State[Any]:
    """Make the pairs once, and train on them with each setting."""
    run, config = begin(config)
    config, made = make_dataset(config)
    tried = []
    for settings in config.grid.settings():
        name = ", ".join(f"{setting} {value:g}" for setting, value in settings.items())
        training = config.train.model_copy(update=settings)
        policy, score = train_and_score(config, training, made, variant=name)
        card = Scorecard.read(score.path / "scorecard.json")
        tried.append(Compared(name, settings, card, policy.stats.steps))
    return conclude_sweep(run, tried)


run_script(sweep, CONFIG)
