"""The whole pipeline: prompts -> answers -> pairs -> policy -> scorecard -> (Hub).

Run it as `python flows/full.py`, with `prefect deployment run full/starter`, or on a schedule.
"""

import sys
from typing import Any

from dpo_pipeline.config import PipelineConfig
from flows.cli import parse
from tasks.runtime import prepare_environment

if __name__ == "__main__":
    # A wrong option ends the process here, before Prefect or torch load.
    CONFIG = parse(
        PipelineConfig,
        sys.argv[1:],
        prog="flows/full.py",
        description="Give a chat model a new identity with DPO, and prove that nothing else "
        "changed.",
        example="--identity.new-name Aria",
    )
    prepare_environment(script=True)
else:
    prepare_environment(script=False)

from prefect import flow
from prefect.client.schemas.objects import State

from dpo_pipeline.evaluation.cases import general_file
from dpo_pipeline.evaluation.lm_eval_tasks import describe_tasks
from tasks.proof import conclude, publish_if_proven
from tasks.run import begin, run_script
from tasks.stages import (
    check_publishing,
    download,
    evaluate,
    generate,
    prepare_model,
    rewrite,
    save,
    train,
)

DEFAULT = PipelineConfig()


@flow(name="full", log_prints=True, persist_result=False)
def full(config: PipelineConfig = DEFAULT) -> State[Any]:
    """Give a chat model a new identity and prove that nothing else changed.

    Ends as Completed when the scorecard passes the gate, else as Failed with the lines that
    failed and their figures. Every stage is cached on what it depends on.

    Args:
        config: One section per stage; every field has its meaning, unit and default.
    """
    run, config = begin(config)
    # What is missing stops the run here.
    general_file(config.evaluation.general)
    describe_tasks(config.evaluation.lm_eval)
    check_publishing(config.publish)
    prompts = run.stage(download, config.prompts, config.identity)
    model = run.stage(prepare_model, config.model)
    responses = run.stage(
        generate, model, prompts, config.identity, config.generation, config.model
    )
    pairs = run.stage(rewrite, model, responses, config.identity, config.pairs)
    dataset = run.stage(save, pairs, config.pairs, run.lineage(model, prompts))
    policy = run.stage(train, model, dataset, config.train, config.model, config.identity)
    score = run.stage(
        evaluate,
        model,
        policy,
        prompts,
        dataset,
        config.identity,
        config.generation,
        config.train,
        config.evaluation,
        config.gate,
        config.model,
    )
    # Proof and verdict first: they are there whatever the Hub says.
    state = conclude(
        run, prompts=prompts, reference=model, dataset=dataset, policy=policy, score=score
    )
    publish_if_proven(
        run, config.publish, reference=model, policy=policy, dataset=dataset, score=score
    )
    return state


if __name__ == "__main__":
    sys.exit(run_script(full, CONFIG))
