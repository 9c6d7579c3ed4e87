"""Score any model against any reference: local folders, Hub ids, or artifacts of this project.

Run it as `python flows/evaluate.py --reference.name Qwen/Qwen2.5-0.5B-Instruct
--policy.name ./renamed`; with `--export.name` it also tells whether a reloaded, merged or
converted copy still answers as the policy does.
"""

from dpo_pipeline.config import EvaluateConfig
from flows.cli import start

CONFIG = start(
    __name__,
    EvaluateConfig,
    description="Score a renamed model against its reference, without training.",
    example="--policy.name ./renamed --reference.name Qwen/Qwen2.5-0.5B-Instruct",
)

from prefect import flow
from prefect.client.schemas.objects import State

from dpo_pipeline.evaluation.lm_eval_tasks import describe_tasks
from dpo_pipeline.evaluation.scorecard import Terms
from dpo_pipeline.prompts.general import general_file
from dpo_pipeline.prompts.sources import resolve_source
from dpo_pipeline.store.settings import AtLeastOne
from dpo_pipeline.training.settings import TrainConfig
from flows.settings import Settings, read
from tasks.models import prepare_model
from tasks.outcome import conclude
from tasks.run import OPTIONS, begin, run_script
from tasks.settling import settle_identity
from tasks.stages import census, download, parity
from tasks.stages import evaluate as score_models


@flow(name="evaluate", **OPTIONS)
def evaluate(
    config: str = "",
    policy: str = "",
    reference: str = "",
    export: str = "",
    original_name: str = "",
    new_name: str = "",
    new_developer: str = "",
    prompts: str = "",
    max_prompts: AtLeastOne | None = None,
    lm_eval: list[str] | None = None,
    settings: Settings | None = None,
) -> State[None]:
    """Score a policy against its reference on held-out and general questions.

    Ends as Completed when the scorecard passes the gate. What is left empty comes from the config,
    else from the defaults.

    Args:
        config: YAML file of settings.
        policy: The model after the change: a folder, a Hub id or a GGUF file.
        reference: The model before the change.
        export: The policy again, converted: does it still answer the same?
        original_name: The name before; empty: found by asking the reference.
        new_name: The name that the policy should give.
        new_developer: The maker that it should name; empty: the one before.
        prompts: The questions: shipped, a file, or a Hub dataset.
        max_prompts: At most this many questions about the identity.
        lm_eval: Tasks of lm-eval that both models are scored on.
        settings: Any other option of the command line by its name: {"gate.kl": 0.06}.
    """
    parameters = {
        "policy.name": policy,
        "reference.name": reference,
        "export.name": export,
        "identity.original_name": original_name,
        "identity.new_name": new_name,
        "identity.new_developer": new_developer,
        "prompts.source": prompts,
        "evaluation.max_prompts": max_prompts,
        "evaluation.lm_eval.tasks": lm_eval,
    }
    return score(read(EvaluateConfig, config, settings, parameters))


def score(config: EvaluateConfig) -> State[None]:
    """Ask both models, and judge by the gate."""
    run, config = begin(config)
    # What is missing stops the run here.
    general = general_file(config.evaluation.general)
    lm_eval = describe_tasks(config.evaluation.lm_eval)
    reference = prepare_model(config.reference, name="reference")
    policy = prepare_model(config.policy, name="policy")
    source = resolve_source(config.prompts)
    asked = census(model=reference, generation=config.generation, run_on=config.reference)
    config = settle_identity(config, asked)
    prompts = download(source=source, prompts=config.prompts, identity=config.identity)
    same = None
    if config.export:
        same = parity(
            policy=policy,
            export=prepare_model(config.export, name="export"),
            prompts=prompts,
            general=general,
            identity=config.identity,
            generation=config.generation,
            evaluation=config.evaluation,
            run_on=config.policy,
            export_on=config.export,
        )
    card = score_models(
        reference=reference,
        policy=policy,
        prompts=prompts,
        export=same,
        terms=Terms(
            config.identity, config.generation, config.evaluation, config.gate, TrainConfig().beta
        ),
        general=general,
        lm_eval=lm_eval,
        run_on=config.policy,
    )
    return conclude(run, prompts, reference, None, policy, card)


run_script(evaluate, CONFIG)
