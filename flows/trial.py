"""A training of a sweep: on pairs that the sweep made, with settings of its own, then scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Completed

from dpo_pipeline.config import SweepConfig
from dpo_pipeline.errors import TrainingError
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.report.page import Compared
from dpo_pipeline.training.records import Pruned
from dpo_pipeline.training.settings import TrainConfig, Value, with_settings
from flows.full import Made, hold, train_and_score
from tasks.run import join
from tasks.runners import UNCACHED
from tasks.stage import model_of

if TYPE_CHECKING:
    from dpo_pipeline.evaluation.search import Attempt


@task(name="trial", task_run_name="trial {number}", **UNCACHED)
def trial(
    number: str,
    settings: Mapping[str, Value] | None,
    study: Path | None,
    base: TrainConfig,
    config: SweepConfig,
    made: Made,
) -> Compared | State[None]:
    """Train with these settings, or with those that a search draws, and score the policy.

    Args:
        number: Of how many it is which.
        settings: Setting of training -> value; null: drawn from the study.
        study: File of a search; null: there is none, and an error of training ends the sweep.
        base: Training as the sweep was asked for, before anything was filled in.
        config: The sweep, with all of that filled in.
        made: What all of its trainings start from.
    Returns:
        What is to be compared; nothing where the search let go of it, whose study knows why.
    """
    join(config)
    attempt: Attempt | None = None
    if settings is None and study:
        from dpo_pipeline.evaluation.search import Search

        attempt = Search(study, config.search, config.train).draw()
        settings = attempt.settings
    assert settings is not None
    train = with_settings(base, settings).resolve(config.model.name)
    config = config.model_copy(update={"train": train})
    made = made._replace(retention=hold(config, made.model))
    name = describe(settings)
    try:
        policy, score = train_and_score(config, made, name, attempt.watch if attempt else None)
    except (Pruned, TrainingError) as why:
        if attempt is None:
            raise
        attempt.drop(why)
        return Completed(name="Dropped", message=f"{name}: {why}")
    card = Scorecard.read(score.path / "scorecard.json")
    if attempt:
        attempt.finish(policy.stats.looks, card)
    return Compared(name, settings, card, policy.stats.steps, str(model_of(policy).path))


def describe(settings: Mapping[str, Value]) -> str:
    """Say settings in a few words."""
    shown = {name: f"{v:.4g}" if isinstance(v, float) else v for name, v in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
