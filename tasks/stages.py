"""The stages as Prefect tasks: each asks the store, and builds with one library call.

Library modules are imported inside the build, so a run that reuses everything loads neither
torch nor transformers.
"""

import json
from pathlib import Path
from typing import Any

from prefect import task, unmapped
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.config import EvaluateConfig
from dpo_pipeline.errors import DPOPipelineError, ModelError, PublishError
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.pairs.lineage import Lineage
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.digests import file_digest
from dpo_pipeline.training.settings import TrainConfig
from tasks.caching import STAGE, get_or_build, ledger, model_of, store
from tasks.console import progress

Stage = Artifact | State[Artifact]

# What decides the numbers: the same versions give the same answers and weights.
NUMERIC = ("torch", "transformers", "tokenizers", "safetensors")


def may_pass(_task: object, _run: object, state: State[Any]) -> bool:
    """Tell whether trying again may help: not after an error the pipeline raised on purpose."""
    return not isinstance(state.result(raise_on_failure=False), DPOPipelineError)


@task(name="model", **STAGE)
def prepare_model(config: ModelConfig) -> Stage:
    """Build the starter or a model from a config.json, or record what a folder or Hub id holds."""
    from dpo_pipeline.models.references import resolve_model

    if config.name == "starter" or config.name.endswith(".json"):
        return _build_model(config)
    ref = resolve_model(config.name, config.revision)

    def record(out: Path, _work: Path) -> dict[str, Any]:
        (out / "model.json").write_text(ref.model_dump_json(indent=1))
        return {"model": ref.model_dump(mode="json")}

    return get_or_build(
        "model",
        record,
        module="dpo_pipeline.models.references",
        inputs={"model": ref, "path": str(ref.path), "revision": ref.revision},
    )


def _build_model(config: ModelConfig) -> Stage:
    from dpo_pipeline.starter.corpus import FILES

    starter = config.name == "starter"
    source = None if starter else _read_config(config.name)

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.models.references import describe_model
        from dpo_pipeline.starter.build import ModelStats, build_starter
        from dpo_pipeline.starter.random_model import init_model

        folder = out / "model"
        folder.mkdir()
        with progress("model", "tokens") as report:
            if starter:
                stats: ModelStats = build_starter(folder, config.starter_seed, report)
            else:
                stats = init_model(Path(config.name), folder, config.starter_seed)
        ref = describe_model(folder, "starter" if starter else Path(config.name).name)
        return {**stats.model_dump(), "model": {**ref.model_dump(), "path": "model"}}

    return get_or_build(
        "model",
        build,
        module="dpo_pipeline.starter.build" if starter else "dpo_pipeline.starter.random_model",
        packages=NUMERIC,
        inputs={
            "config": source,
            "seed": config.starter_seed,
            "corpus": {path.name: file_digest(path) for path in FILES},
        },
    )


def _read_config(name: str) -> str:
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"model.name {name!r} does not exist (seen from {Path.cwd()})")
    return path.read_text(encoding="utf-8")


@task(name="download", **STAGE)
def download(prompts: PromptsConfig, identity: IdentityConfig) -> Stage:
    """Turn raw identity conversations into unique prompts, train and held out."""
    from dpo_pipeline.prompts.preparation import prepare_prompts
    from dpo_pipeline.prompts.sources import resolve_source

    source = resolve_source(prompts)
    return get_or_build(
        "download",
        lambda out, _: prepare_prompts(source, prompts, identity, out).model_dump(mode="json"),
        module="dpo_pipeline.prompts.preparation",
        packages=("pyarrow", "datasets"),
        inputs={"source": source.digest, "prompts": prompts, "identity": identity},
    )


@task(name="generate", **STAGE)
def generate(
    model: Artifact,
    prompts: Artifact,
    identity: IdentityConfig,
    generation: GenerationConfig,
    run_on: ModelConfig,
) -> Stage:
    """Let the reference model answer every prompt: its own answers are the rejected ones."""
    ref, path = model_of(model), prompts.path / "prompts.parquet"

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.answers.census import probe_identity
        from dpo_pipeline.answers.collecting import collect_responses, plan_shards

        options: dict[str, Any] = {"model": run_on, "config": generation, "ledger": ledger()}
        probe = probe_identity(ref, identity, **options)
        shards = generate_shard.map(
            plan_shards(path, generation),
            ref=unmapped(ref),
            prompts=unmapped(path),
            generation=unmapped(generation),
            run_on=unmapped(run_on),
        )
        shards.result()
        return {"probe": probe, **collect_responses(ref, path, out=out, **options)}

    return get_or_build(
        "generate",
        build,
        module="dpo_pipeline.answers.collecting",
        packages=NUMERIC,
        inputs={
            "model": ref,
            "prompts": prompts,
            "identity": identity,
            "generation": generation,
            "run_on": run_on,
        },
    )


@task(name="generate-shard", retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass, **STAGE)
def generate_shard(
    shard: tuple[int, int],
    ref: ModelRef,
    prompts: Path,
    generation: GenerationConfig,
    run_on: ModelConfig,
) -> dict[str, Any]:
    """Answer one shard of the prompts into the ledger; what it already holds costs nothing."""
    from dpo_pipeline.answers.collecting import generate_shard as answer_shard

    with progress("generate", "answers") as report:
        return answer_shard(
            ref,
            prompts,
            shard,
            model=run_on,
            config=generation,
            ledger=ledger(),
            on_progress=report,
        )


@task(name="rewrite", **STAGE)
def rewrite(
    model: Artifact, responses: Artifact, identity: IdentityConfig, pairs: PairsConfig
) -> Stage:
    """Rewrite the name in every answer: the same answer with the new name is the chosen one."""
    ref = model_of(model)

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.pairs.rewriting import build_pairs

        source = responses.path / "responses.parquet"
        return build_pairs(source, ref, identity, pairs, out).model_dump(mode="json")

    return get_or_build(
        "rewrite",
        build,
        module="dpo_pipeline.pairs.rewriting",
        packages=("pyarrow", "transformers", "tokenizers"),
        inputs={"model": ref, "responses": responses, "identity": identity, "pairs": pairs},
    )


@task(name="prepare", **STAGE)
def prepare(model: Artifact, prompts: PromptsConfig, pairs: PairsConfig) -> Stage:
    """Turn a preference dataset that already exists into the same pairs."""
    from dpo_pipeline.prompts.sources import resolve_source

    ref, source = model_of(model), resolve_source(prompts)

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.pairs.preferences import prepare_preferences

        return prepare_preferences(source, prompts, pairs, ref, out).model_dump(mode="json")

    return get_or_build(
        "prepare",
        build,
        module="dpo_pipeline.pairs.preferences",
        packages=("pyarrow", "datasets", "transformers", "tokenizers"),
        inputs={"model": ref, "source": source.digest, "prompts": prompts, "pairs": pairs},
    )


@task(name="save", **STAGE)
def save(pairs: Artifact, config: PairsConfig, lineage: Lineage) -> Stage:
    """Save the pairs as Parquet, with where every byte came from."""

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.pairs.dataset import save_dataset

        counts = save_dataset(pairs.path, lineage, config, out)
        return {**counts.model_dump(mode="json"), "lineage": lineage.model_dump(mode="json")}

    return get_or_build(
        "save",
        build,
        module="dpo_pipeline.pairs.rewriting",
        packages=("pyarrow",),
        inputs={"pairs": pairs, "config": config, "lineage": lineage},
    )


@task(name="train", **STAGE)
def train(
    model: Artifact,
    dataset: Artifact,
    config: TrainConfig,
    run_on: ModelConfig,
    identity: IdentityConfig | None = None,
) -> Stage:
    """Train the policy with DPO, in a child process that ends with this task."""
    ref = model_of(model)
    looked_for = identity if config.stop else None
    patched = identity if identity and identity.patch_template else None

    def build(out: Path, work: Path) -> dict[str, Any]:
        from dpo_pipeline.identity.system_message import patch_template
        from dpo_pipeline.models.references import describe_model
        from dpo_pipeline.training.run import train as run_dpo

        with progress("train", "steps") as report:
            stats = run_dpo(
                ref,
                dataset.path,
                model=run_on,
                config=config,
                identity=identity,
                out=out,
                work=work,
                references=store().root / "references",
                on_progress=report,
            )
        if patched:
            stats["template"] = patch_template(out / "model", patched).model_dump()
        policy = describe_model(out / "model", f"{ref.name}-policy")
        return {**stats, "model": {**policy.model_dump(), "path": "model"}}

    return get_or_build(
        "train",
        build,
        module="dpo_pipeline.training." + ("early_stopping" if config.stop else "child"),
        packages=(*NUMERIC, "trl", "peft", "accelerate"),
        inputs={
            "model": ref,
            "dataset": dataset,
            "train": config,
            "run_on": run_on,
            "stop_at": looked_for,
            "patch_template": patched,
        },
    )


@task(name="evaluate", **STAGE)
def evaluate(
    reference: Artifact,
    policy: Artifact,
    prompts: Artifact,
    dataset: Artifact | None,
    identity: IdentityConfig,
    generation: GenerationConfig,
    training: TrainConfig,
    evaluation: EvaluationConfig,
    gate: GateConfig,
    run_on: ModelConfig,
    export: Artifact | None = None,
) -> Stage:
    """Ask both models what the training never saw; score what changed and what should not."""
    from dpo_pipeline.evaluation.cases import general_file
    from dpo_pipeline.evaluation.lm_eval_tasks import describe_tasks

    before, after = model_of(reference), model_of(policy)

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.evaluation.asking import Subject
        from dpo_pipeline.evaluation.parity import Parity
        from dpo_pipeline.evaluation.scorecard import Material, Terms
        from dpo_pipeline.evaluation.scorecard import evaluate as score

        found = Parity.read(export.path / "parity.json") if export else None
        seen = training.stop.prompts if training.stop else 0
        with progress("evaluate", "answers") as report:
            stats = score(
                Subject(before, run_on),
                Subject(after, run_on),
                Material(
                    prompts.path / "prompts.parquet", dataset.path if dataset else None, found, seen
                ),
                Terms(identity, generation, evaluation, gate, training.beta),
                ledger=ledger(),
                out=out,
                on_progress=report,
            )
        # What the verdict holds for: publishing compares these with what it is about to send.
        evidence = {
            "weights_digest": after.weights_digest,
            "template_digest": after.template_digest,
            "dataset_digest": dataset.digest if dataset else "",
        }
        return {**stats.model_dump(mode="json"), "evidence": evidence}

    return get_or_build(
        "evaluate",
        build,
        module="dpo_pipeline.evaluation.scorecard",
        packages=NUMERIC,
        inputs={
            "reference": before,
            "policy": policy,
            "prompts": prompts,
            "dataset": dataset,
            "export": export,
            "general": file_digest(general_file(evaluation.general)),
            "lm_eval": describe_tasks(evaluation.lm_eval),
            "identity": identity,
            "generation": generation,
            "beta": training.beta,
            "set_aside": training.stop.prompts if training.stop else 0,
            "evaluation": evaluation,
            "gate": gate,
            "run_on": run_on,
        },
    )


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@task(name="parity", **STAGE)
def parity(
    policy: Artifact,
    export: Artifact,
    prompts: Artifact,
    config: EvaluateConfig,
    export_model: ModelConfig,
) -> Stage:
    """Tell whether an export of the policy still answers as the policy does."""
    original, exported = model_of(policy), model_of(export)

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.evaluation.asking import Subject
        from dpo_pipeline.evaluation.parity import check_parity

        stats = check_parity(
            Subject(original, config.policy),
            Subject(exported, export_model),
            prompts=prompts.path / "prompts.parquet",
            identity=config.identity,
            generation=config.generation,
            config=config.evaluation,
            ledger=ledger(),
            out=out,
        )
        return stats.model_dump(mode="json")

    return get_or_build(
        "parity",
        build,
        module="dpo_pipeline.evaluation.parity",
        packages=NUMERIC,
        inputs={
            "policy": original,
            "export": exported,
            "prompts": prompts,
            "config": config,
            "export_model": export_model,
        },
    )


@task(name="compare", **STAGE)
def compare(
    reference: Artifact,
    policy: Artifact,
    dataset: Artifact,
    training: TrainConfig,
    evaluation: EvaluationConfig,
    run_on: ModelConfig,
) -> Stage:
    """Measure on held-out pairs how much more the policy prefers the chosen answers."""
    before, after = model_of(reference), model_of(policy)

    def build(out: Path, _work: Path) -> dict[str, Any]:
        from dpo_pipeline.evaluation.asking import Subject
        from dpo_pipeline.evaluation.likelihood import compare_preferences

        stats = compare_preferences(
            Subject(before, run_on),
            Subject(after, run_on),
            dataset.path / "held_out.parquet",
            beta=training.beta,
            max_pairs=evaluation.max_pairs,
            out=out,
        )
        return stats.model_dump(mode="json")

    return get_or_build(
        "compare",
        build,
        module="dpo_pipeline.evaluation.likelihood",
        packages=NUMERIC,
        inputs={
            "reference": before,
            "policy": policy,
            "dataset": dataset,
            "beta": training.beta,
            "evaluation": evaluation,
            "run_on": run_on,
        },
    )


@task(name="publish", persist_result=False, cache_policy=NO_CACHE)
def publish(
    config: PublishConfig,
    run_id: str,
    reference: Artifact,
    policy: Artifact,
    dataset: Artifact,
    score: Artifact,
    training: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Publish to the Hub what the gate passed for; the token is read here and goes nowhere."""
    from dpo_pipeline.publishing.publish import publish as publish_proven
    from dpo_pipeline.publishing.records import Evidence, Proven

    proven = Proven(
        run_id=run_id,
        model=model_of(policy).path,
        dataset=dataset.path,
        base=model_of(reference).path,
        evidence=Evidence.model_validate(score.stats["evidence"]),
        scorecard=_read(score.path / "scorecard.json"),
        lineage=Lineage.model_validate(dataset.stats["lineage"]),
        training=training,
    )
    return publish_proven(config, proven, token=_read_token(config), out=out).model_dump()


def check_publishing(config: PublishConfig) -> None:
    """Stop before hours of work where nothing could be published after them.

    Raises:
        PublishError: Something is to be sent, and there is no token that may, or no network.
    """
    if (config.model_repo or config.dataset_repo) and not config.dry_run:
        from dpo_pipeline.publishing.access import check_access

        check_access(config, _read_token(config))


def _read_token(config: PublishConfig) -> str | None:
    """Read the token: the Prefect Secret block, else the environment, else the stored login."""
    from huggingface_hub import get_token

    name = config.token_block
    if name is None:
        return get_token()
    try:
        secret = Secret.load(name).get()  # type: ignore[union-attr]
    except ValueError:
        raise PublishError(
            f"publish.token_block: Prefect has no Secret block {name!r}: make one (see Publishing "
            "in the README), or leave the option out, and HF_TOKEN or the stored login is used"
        ) from None
    if not isinstance(secret, str) or not secret.strip():
        raise PublishError(f"the Secret block {name!r} holds no text: store the token itself in it")
    return secret.strip()
