"""Where a model comes from: stages that bring, make or record one."""

from pathlib import Path

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.gguf import find_gguf
from dpo_pipeline.models.references import ModelRef, ModelStats, describe_model, resolve_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.models.smollm2 import NAME as SMOLLM2
from dpo_pipeline.starter.build import STARTER
from dpo_pipeline.store.artifacts import Artifact
from tasks.runners import NUMERIC
from tasks.stage import Build, stage


def prepare_model(config: ModelConfig, *, name: str = "model") -> Artifact[ModelStats]:
    """Record what the starter, a folder or a Hub id holds; import a GGUF file, or make a model."""
    if config.name.endswith(".json"):
        file = Path(config.name)
        if not file.is_file():
            raise ModelError(f"model.name {config.name!r} does not exist (seen from {Path.cwd()})")
        return make_model.named(name)(config=file)
    if config.name == SMOLLM2:
        return bring_smollm2.named(name)()
    if gguf := find_gguf(config.name, config.revision):
        return dequantise.named(name)(
            file=gguf.path, name=gguf.name, revision=gguf.revision, digest=gguf.digest
        )
    if config.name == "starter":
        ref = describe_model(STARTER, config.name)
    else:
        ref = resolve_model(config.name, config.revision)
    return record_model.named(name)(model=ref, path=str(ref.path), revision=ref.revision)


def inside(ref: ModelRef) -> ModelRef:
    """Name a model by its place in the artifact that holds it."""
    return ref.model_copy(update={"path": Path(ref.path.name)})


def _describe_model(stats: ModelStats) -> str:
    source = f" from {stats.model.gguf.source}" if stats.model.gguf else ""
    return f"{stats.model.name}{source}, weights {stats.model.weights_digest[:12]}"


@stage(name="model", packages=NUMERIC, says=_describe_model)
def make_model(build: Build, *, config: Path) -> ModelStats:
    """Initialise a model with random weights from a config.json."""
    from dpo_pipeline.models.references import describe_model
    from dpo_pipeline.starter.build import init_model

    init_model(config, build.out / "model")
    return ModelStats(model=inside(describe_model(build.out / "model", config.name)))


@stage(name="model", packages=(*NUMERIC, "gguf"), counts="tensors", says=_describe_model)
def dequantise(
    build: Build, *, file: Path, name: str, revision: str | None, digest: str
) -> ModelStats:
    """Dequantise a GGUF file into an ordinary model folder."""
    from dpo_pipeline.models.gguf import GgufFile, import_gguf

    gguf = GgufFile(file, name, revision, digest)
    return import_gguf(gguf, file.name, build.out, build.report)


@stage(name="model", packages=(*NUMERIC, "gguf"), counts="tensors", says=_describe_model)
def bring_smollm2(build: Build) -> ModelStats:
    """Bring SmolLM2-135M-Instruct from wherever it is reached first."""
    from dpo_pipeline.models.smollm2 import bring_smollm2

    return bring_smollm2(build.out, build.work, build.report)


@stage(name="model", says=_describe_model)
def record_model(build: Build, *, model: ModelRef, path: str, revision: str | None) -> ModelStats:
    """Record where the model lies and what it is."""
    stats = ModelStats(model=model)
    stats.write(build.out / "model.json")
    return stats
