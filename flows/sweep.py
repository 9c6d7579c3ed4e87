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

from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.report.page import Compared
from flows.full import make_dataset, train_and_score
from tasks.outcome import conclude_sweep
from tasks.run import begin, run_script

DEFAULT = SweepConfig()


@flow(name="sweep", log_prints=True, persist_result=False)
def sweep(config: SweepConfig = DEFAULT) -> State[Any]:
    """Train with every combination of settings on the same pairs, and compare the scorecards.

    Ends as Completed when one of them passes the gate. Trainings share the reference's
    log-probabilities, and what one of them finished is cached for the next run.

    Args:
        config: One section per stage, and the grid of training settings.
    """
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
