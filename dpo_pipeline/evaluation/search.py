"""A search for settings of training: Optuna proposes, the tuning split prunes, the gate judges.

What a search knows lies in one file (SQLite), which several processes may use at once and which
outlives all of them. Sources: Akiba et al. 2019, arXiv:1907.10902 (Optuna); Bergstra et al. 2011
(the tree of Parzen estimators, which proposes); Golovin et al. 2017, section 3.2 (the median rule).
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.distributions import FloatDistribution as Floats
from optuna.distributions import IntDistribution as Integers
from optuna.trial import TrialState

from dpo_pipeline.evaluation.ranking import standing, worst_line
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.training.records import Look, Pruned
from dpo_pipeline.training.settings import SearchConfig, TrainConfig, Value, is_number

# Trainings that are drawn at random, and that end before any other is pruned.
RANDOM, UNPRUNED = 5, 3


class Search:
    """The trials of a search.

    Args:
        file: Where they are kept; made where it is missing.
        config: What is searched.
        train: The settings around it; they are the first trial, where they lie in the ranges.
    """

    def __init__(self, file: Path, config: SearchConfig, train: TrainConfig) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file.parent.mkdir(parents=True, exist_ok=True)
        every = train.goal.every if train.goal else None
        self.file, self.config, self.train = file, config, train
        self.ranges = {name: _distribution(values) for name, values in config.given().items()}
        self.study = optuna.create_study(
            study_name="sweep",
            storage=f"sqlite:///{file}",
            load_if_exists=True,
            direction="maximize",
            # At the first look little has been learnt.
            pruner=optuna.pruners.MedianPruner(UNPRUNED, n_warmup_steps=(every or 0) + 1),
        )
        # A process that goes on draws what the one before it would have drawn next.
        seed = train.seed + len(self.study.trials)
        self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=RANDOM, seed=seed)

    def resume(self) -> tuple[list[dict[str, Value]], int]:
        """Put trials that were cut short in front again; only while nobody else searches.

        Returns:
            The settings of each trial that came to its end, and how many were pruned.
        """
        if not self.study.trials:
            self.study.enqueue_trial(self._own())
        for trial in self._in(TrialState.RUNNING):
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params)
        complete, pruned = self._in(TrialState.COMPLETE), self._in(TrialState.PRUNED)
        return [trial.params for trial in complete], len(pruned)

    def dropped(self) -> list[tuple[dict[str, Value], str]]:
        """Return the settings of each trial that was pruned or failed, and why."""
        ended = self._in(TrialState.PRUNED, TrialState.FAIL)
        return [(t.params, t.user_attrs["why"]) for t in ended if "why" in t.user_attrs]

    def draw(self) -> "Attempt":
        """Take the settings that look best to try next."""
        return Attempt(self, self.study.ask(self.ranges))

    def _in(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _own(self) -> dict[str, Value]:
        """Return train's own values, of the settings that are searched where it is."""
        own = {}
        for name, values in self.config.given().items():
            value: Any = reduce(getattr, name.split("."), self.train)
            if value in values or (value and is_number(value) and values[0] < value < values[1]):
                own[name] = value
        return own


class Attempt:
    """A trial that goes on."""

    def __init__(self, search: Search, trial: optuna.Trial) -> None:
        self.search, self.trial, self.goal = search, trial, search.train.goal
        self.settings: Mapping[str, Value] = trial.params
        self._seen: set[int] = set()

    def _note(self, look: Look) -> None:
        if self.goal and look.strength == 1 and look.step not in self._seen:
            self._seen.add(look.step)
            self.trial.report(standing(look, self.goal), look.step)

    def watch(self, look: Look) -> None:
        """Note a look; raise Pruned where the best so far is behind half of those that finished."""
        self._note(look)
        if self.trial.should_prune():
            raise Pruned(f"behind half of those that finished; {look}")

    def finish(self, looks: Sequence[Look], card: Scorecard) -> None:
        """End with what was seen, which a cached training did not tell, and the scorecard."""
        for look in looks:
            self._note(look)
        self.search.study.tell(self.trial, worst_line(card)[0])

    def drop(self, why: Exception) -> None:
        """End without a result: pruned, or failed, and then another run draws one in its place."""
        self.trial.set_user_attr("why", str(why))
        state = TrialState.PRUNED if isinstance(why, Pruned) else TrialState.FAIL
        self.search.study.tell(self.trial, state=state)


def _distribution(values: tuple[Value, ...]) -> BaseDistribution:
    if not is_number(values[0]):
        return CategoricalDistribution(values)
    low: Any
    high: Any
    low, high = values
    if isinstance(low, int):
        return Integers(low, high, log=low > 0)
    return Floats(low, high, log=low > 0)
