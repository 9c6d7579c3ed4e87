"""Answer and score as flows/full.py does, without a training between.

python answering_flow.py '{"run": {"task_runner": "dask"}}'
"""

import json
import sys

from tasks.runtime import prepare_environment

prepare_environment(script=__name__ == "__main__")

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.evaluation.lm_eval_tasks import describe_tasks
from dpo_pipeline.evaluation.scorecard import Terms
from dpo_pipeline.prompts.general import general_file
from dpo_pipeline.prompts.sources import resolve_source
from tasks.models import prepare_model
from tasks.run import OPTIONS, begin, run_script
from tasks.settling import settle_identity, settle_turns
from tasks.stages import census, download, evaluate, generate

SMALL = {
    "prompts": {"limit": 60, "held_out": 0.2},
    "generation": {"shard_rows": 24, "max_new_tokens": 24},
    "evaluation": {"max_prompts": 3, "trained_prompts": 2, "matrix_prompts": 1},
}


@flow(name="answering", **OPTIONS)
def answering(settings: dict) -> State:
    run, config = begin(PipelineConfig.model_validate(settings))
    model = prepare_model(config.model)
    asked = census(model=model, generation=config.generation, run_on=config.model)
    config = settle_identity(config, asked)
    prompts = download(
        source=resolve_source(config.prompts), prompts=config.prompts, identity=config.identity
    )
    config = settle_turns(config, prompts)
    generate(model=model, prompts=prompts, generation=config.generation, run_on=config.model)
    evaluate(
        reference=model,
        policy=model,
        prompts=prompts,
        terms=Terms(
            config.identity, config.generation, config.evaluation, config.gate, config.train.beta
        ),
        general=general_file(config.evaluation.general),
        lm_eval=describe_tasks(config.evaluation.lm_eval),
        run_on=config.model,
    )
    run.write_summary({})
    return Completed()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    run_script(answering, PipelineConfig.model_validate(SMALL | given))
