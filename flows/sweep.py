"""Several trainings on one cached dataset: prompts -> pairs once, then policy -> scorecard each.

Run it as `python flows/sweep.py --grid.beta 0.1,0.2 --grid.learning-rate 1e-4,3e-4`.
"""

import sys
from typing import Any

from dpo_pipeline.config import SweepConfig
from flows.cli import parse
from tasks.runtime import prepare_environment

if __name__ == "__main__":
    CONFIG = parse(
        SweepConfig,
        sys.argv[1:],
        prog="flows/sweep.py",
        description="Try training settings on one dataset and compare their scorecards.",
        example="--grid.beta 0.1,0.2 --train.epochs 2",
    )
    prepare_environment(script=True)
else:
    prepare_environment(script=False)

from prefect import flow
from prefect.client.schemas.objects import State

from dpo_pipeline.evaluation.cases import general_file
from dpo_pipeline.evaluation.lm_eval_tasks import describe_tasks
from tasks.proof import conclude_sweep
from tasks.run import begin, run_script
from tasks.stages import (
    download,
    evaluate,
    generate,
    prepare_model,
    rewrite,
    save,
    train,
)

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
    # What is missing stops the run here.
    general_file(config.evaluation.general)
    describe_tasks(config.evaluation.lm_eval)
    prompts = run.stage(download, config.prompts, config.identity)
    model = run.stage(prepare_model, config.model)
    responses = run.stage(
        generate, model, prompts, config.identity, config.generation, config.model
    )
    pairs = run.stage(rewrite, model, responses, config.identity, config.pairs)
    dataset = run.stage(save, pairs, config.pairs, run.lineage(model, prompts))
    tried = []
    for settings in config.grid.settings():
        name = ", ".join(f"{setting} {value:g}" for setting, value in settings.items())
        training = config.train.model_copy(update=settings)
        policy = run.stage(
            train, model, dataset, training, config.model, config.identity, variant=name
        )
        score = run.stage(
            evaluate,
            model,
            policy,
            prompts,
            dataset,
            config.identity,
            config.generation,
            training,
            config.evaluation,
            config.gate,
            config.model,
            variant=name,
        )
        tried.append({"name": name, "settings": settings, "policy": policy, "score": score})
    return conclude_sweep(run, tried)


if __name__ == "__main__":
    sys.exit(run_script(sweep, CONFIG))
