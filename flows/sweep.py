"""Several trainings on one cached dataset: prompts -> pairs once, then policy -> scorecard each.

Run it as `python flows/sweep.py --grid.beta 0.1,0.2 --grid.learning-rate 1e-4,3e-4`, or let Optuna
search: `python flows/sweep.py --search.trials 20 --search.learning-rate 1e-5,1e-3`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dpo_pipeline.config import SweepConfig
from flows.cli import start

CONFIG = start(
    __name__,
    SweepConfig,
    description="Try training settings on one dataset and compare their scorecards.",
    example="--search.trials 20 --search.learning-rate 1e-5,1e-3 --search.beta 0.05,0.5",
)

from prefect import flow
from prefect.client.schemas.objects import State
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from dpo_pipeline.errors import SettingsError
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.keys import code_digests, settings_of
from dpo_pipeline.store.objects import open_store
from dpo_pipeline.store.settings import AtLeastOne
from dpo_pipeline.training.settings import Value
from flows.full import Made, make_dataset
from flows.settings import Settings, read
from flows.trial import describe, trial
from tasks.outcome import conclude_sweep
from tasks.run import OPTIONS, begin, run_script
from tasks.runners import sharing

if TYPE_CHECKING:
    from dpo_pipeline.evaluation.search import Search

# What gives the figures by which a search judges: of other code its study is another.
JUDGES = frozenset({"dpo_pipeline.training.tuning", "dpo_pipeline.evaluation.search"})


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
) -> State[None]:
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


def try_all(config: SweepConfig) -> State[None]:
    """Make the pairs once, and train on them with each setting."""
    if config.search.trials and find_spec("optuna") is None:
        raise SettingsError('a search needs Optuna: pip install "dpo-pipeline[sweep]"')
    asked = config
    run, config = begin(asked)
    config, made = make_dataset(config)
    with planned(config, made) as (search, plan):
        study = search.file if search else None
        shared = {"study": study, "base": asked.train, "config": config, "made": made}
        calls = [
            {"number": f"{n} of {len(plan)}", "settings": settings, **shared}
            for n, settings in enumerate(plan, 1)
        ]
        if runner := sharing():
            found = dict(runner.each(trial, calls))
            tried = [found[place] for place in range(len(calls))]
        else:  # one after the other: each has this machine to itself, and learns from the last
            tried = [trial(**call, return_state=True).result() for call in calls]
        dropped = {describe(s): why for s, why in search.dropped()} if search else {}
    return conclude_sweep(run, asked, [one for one in tried if one], dropped)


@contextmanager
def planned(
    config: SweepConfig, made: Made
) -> Iterator[tuple["Search | None", Sequence[Mapping[str, Value] | None]]]:
    """Say what is to be tried: the settings of each training, null where a search draws them.

    A search goes on where an earlier run of it stopped; two runs of one search wait for each other.
    """
    if config.search.trials is None:
        yield None, config.grid.settings()
        return
    from dpo_pipeline.evaluation.search import Search

    endless = config.search.model_copy(update={"trials": None})
    asked = settings_of(config.model_copy(update={"search": endless}))
    key = digest_of([asked, made.dataset.key, code_digests(JUDGES)])[:32]
    store = open_store()
    with store.lock("study", key):
        search = Search(store.root / "studies" / f"{key}.db", config.search, config.train)
        finished, gone = search.resume()
        yield search, [*finished, *[None] * (config.search.trials - len(finished) - gone)]


run_script(sweep, CONFIG)
