"""Score any model against any reference: local folders, Hub ids, or artifacts of this project.

Run it as `python flows/evaluate.py --reference.name Qwen/Qwen2.5-0.5B-Instruct
--policy.name ./renamed`; with `--export.name` it also tells whether a reloaded, merged or
converted copy still answers as the policy does.
"""

import sys
from typing import Any

from dpo_pipeline.config import EvaluateConfig
from dpo_pipeline.training.settings import TrainConfig
from flows.cli import parse
from tasks.runtime import prepare_environment

if __name__ == "__main__":
    CONFIG = parse(
        EvaluateConfig,
        sys.argv[1:],
        prog="flows/evaluate.py",
        description="Score a renamed model against its reference, without training.",
        example="--policy.name ./renamed --reference.name Qwen/Qwen2.5-0.5B-Instruct",
    )
    prepare_environment(script=True)
else:
    prepare_environment(script=False)

from prefect import flow
from prefect.client.schemas.objects import State

from dpo_pipeline.evaluation.cases import general_file
from dpo_pipeline.evaluation.lm_eval_tasks import describe_tasks
from tasks.proof import conclude
from tasks.run import begin, run_script
from tasks.stages import download, parity, prepare_model
from tasks.stages import evaluate as score_models


@flow(name="evaluate", log_prints=True, persist_result=False)
def evaluate(config: EvaluateConfig) -> State[Any]:
    """Score a policy against its reference on held-out and general questions.

    Args:
        config: The two models, the identities and what is measured.
    """
    run, config = begin(config)
    # What is missing stops the run here.
    general_file(config.evaluation.general)
    describe_tasks(config.evaluation.lm_eval)
    reference = run.stage(prepare_model.with_options(name="reference"), config.reference)
    policy = run.stage(prepare_model.with_options(name="policy"), config.policy)
    prompts = run.stage(download, config.prompts, config.identity)
    parity_found = None
    if config.export:
        export = run.stage(prepare_model.with_options(name="export"), config.export)
        parity_found = run.stage(parity, policy, export, prompts, config, config.export)
    score = run.stage(
        score_models,
        reference,
        policy,
        prompts,
        None,
        config.identity,
        config.generation,
        TrainConfig(),
        config.evaluation,
        config.gate,
        config.policy,
        parity_found,
    )
    return conclude(
        run, prompts=prompts, reference=reference, dataset=None, policy=policy, score=score
    )


if __name__ == "__main__":
    sys.exit(run_script(evaluate, CONFIG))
