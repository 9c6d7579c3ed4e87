"""Accuracy on tasks of lm-eval, before and after: more gate lines, for models that know something.

The library is an extra of this project. A task given by its name is read from the Hub.

Source: Gao et al. 2021, A framework for few-shot language model evaluation,
doi:10.5281/zenodo.5371628.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

from dpo_pipeline.errors import EvaluationError
from dpo_pipeline.evaluation.cases import Subject
from dpo_pipeline.evaluation.measures import TASKS, counted
from dpo_pipeline.evaluation.settings import LmEvalConfig
from dpo_pipeline.evaluation.statistics import Figure, mean, rate
from dpo_pipeline.store.digests import file_digest

METRICS = ("acc", "exact_match")  # 0 or 1 for every question
Scores = dict[str, dict[int, float]]  # task -> question -> score


def describe_tasks(config: LmEvalConfig | None) -> dict[str, str]:
    """Say what the scores depend on: versions, and digests of YAML files (not of their data).

    Raises:
        EvaluationError: lm-eval is not installed, or a YAML file is not there.
    """
    if config is None:
        return {}
    try:
        parts = {"lm_eval": metadata.version("lm_eval")}
    except metadata.PackageNotFoundError:
        raise EvaluationError(
            "evaluation.lm_eval needs lm-eval, which is not installed: "
            'pip install -c constraints.txt -e ".[lm-eval]", or set it to null'
        ) from None
    for name in config.tasks:
        path = Path(name)
        if path.suffix == ".yaml" and not path.is_file():
            raise EvaluationError(
                f"evaluation.lm_eval.tasks: {name} does not exist (seen from {Path.cwd()})"
            )
        parts[name] = file_digest(path) if path.suffix == ".yaml" else ""
    return parts


def score_tasks(
    before: Subject, after: Subject, config: LmEvalConfig
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """Score both models on the same questions: `lm_eval/<task>`, and after also lm_eval_drop.

    Raises:
        EvaluationError: A task is unknown, or has none of METRICS.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    names = [name for name in config.tasks if not name.endswith(".yaml")]
    if unknown := [name for name in names if not manager.match_tasks([name])]:
        raise EvaluationError(f"evaluation.lm_eval.tasks: lm-eval has no {', '.join(unknown)}")
    was, now = (_scores(model, config, manager) for model in (before, after))
    # The questions are the same, so what counts is the interval of their differences.
    drops = [mean([100 * (was[task][i] - now[task][i]) for i in now[task]]) for task in now]
    accuracies = [
        {f"lm_eval/{task}": rate(map(bool, found.values())) for task, found in scores.items()}
        for scores in (was, now)
    ]
    return accuracies[0], accuracies[1] | counted(TASKS, drops)


def _scores(model: Subject, config: LmEvalConfig, manager: Any) -> Scores:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    found = simple_evaluate(
        HFLM(pretrained=model.load(), tokenizer=model.tokenizer(), batch_size=16),
        tasks=list(config.tasks),
        limit=config.limit,
        task_manager=manager,
        bootstrap_iters=0,
    )
    scores: Scores = {}
    for task, samples in found["samples"].items():
        for sample in samples:
            metric = next((name for name in METRICS if name in sample), None)
            if metric is None:
                given = ", ".join(sample["metrics"])
                raise EvaluationError(f"lm-eval task {task} gives {given}, none of {METRICS}")
            # A task may read one answer in several ways; the first is its own.
            scores.setdefault(task, {}).setdefault(sample["doc_id"], sample[metric])
    return scores
