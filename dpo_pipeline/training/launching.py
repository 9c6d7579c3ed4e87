"""How the processes of a training are started, where there are several."""

from pathlib import Path

import yaml

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.store.strict_yaml import load_strictly
from dpo_pipeline.training.settings import TrainConfig

SHARED = ("MULTI_GPU", "FSDP")  # accelerate's names of how processes share a training


def launcher(config: TrainConfig) -> list[str]:
    """Tell what Python is to run before a module, for all processes to run it; none for one.

    Raises:
        TrainingError: The file of train.accelerate is none, or asks for what is not carried.
    """
    several = str(config.processes)
    if config.accelerate is not None:
        _check(config.accelerate, config)
        file = ["--config_file", config.accelerate, "--num_processes", several]
        # What the settings say holds: the precision, and that every process loads the weights.
        ours = ["--mixed_precision", "no", "--fsdp_cpu_ram_efficient_loading", "false"]
        return ["-m", "accelerate.commands.launch", *file, *ours]
    if config.processes > 1:
        return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", several]
    return []


def _check(file: str, config: TrainConfig) -> None:
    where = f"train.accelerate {file}"
    try:
        asked = load_strictly(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"{where}: {error}; configs/accelerate has such files") from None
    kind = asked.get("distributed_type") if isinstance(asked, dict) else None
    if kind not in SHARED:
        raise TrainingError(
            f"{where}: distributed_type is {kind}, and training is shared by {' or '.join(SHARED)} "
            "(on CPUs as well)"
        )
    if kind == "FSDP" and (asked.get("fsdp_config") or {}).get("fsdp_version") != 2:
        raise TrainingError(f"{where}: set fsdp_config.fsdp_version to 2; no other is carried")
    if kind == "FSDP" and config.method == "lora" and config.lora.quantize:
        raise TrainingError(
            f"{where}: FSDP does not shard the 4-bit weights of train.lora.quantize: use MULTI_GPU"
        )
