"""The training process: load, train, write. Started by `run.py`, ends with it."""

import ctypes
import json
import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import DPOPipelineError, TrainingError
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.training.checkpoints import last_good, seal
from dpo_pipeline.training.run import RECORD, TENSORBOARD
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import tokenize_pairs

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl.trainer.dpo_trainer import DPOTrainer

Callbacks = Callable[[dict[str, Any]], "Sequence[TrainerCallback]"]

PR_SET_PDEATHSIG = 1

# Name in history.jsonl -> name in TRL's log.
FIGURES = {
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}
PROBED = ("identity_rate", "edit_exactness", "tail_gap", "kl")  # where config.stop asks

# Weights (bytes) below which a second thread costs more in barriers than it gains, above all
# on a busy machine; one thread also makes the result independent of the number of cores.
SMALL_MODEL = 1 << 24


def main(path: str, module: str, callbacks: "Callbacks" = lambda job: []) -> None:
    """Run the job in the JSON file `path`, alone or as one of several processes.

    Args:
        path: The job.
        module: The module that was started, for the other processes to start as well.
        callbacks: Makes what looks on while training, of the job.
    """
    job = json.loads(Path(path).read_text())
    launched = "LOCAL_RANK" in os.environ  # by torch, as one of several
    _die_with_parent(None if launched else job["parent"])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    processes = job["config"]["processes"]
    if processes > 1 and not launched:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        os.execv(sys.executable, [sys.executable, *launcher, "-m", module, path])
    try:
        run(job, callbacks(job))
    except DPOPipelineError as error:
        send({"failure": {"type": type(error).__name__, "arguments": error.args}})
        raise


def run(job: dict[str, Any], callbacks: "Sequence[TrainerCallback]" = ()) -> None:
    """Train as the job says and write model/, history.jsonl and training.json to its `out`."""
    import torch
    from transformers import PrinterCallback

    from dpo_pipeline.training.trainer import build_trainer, memory_for, plan

    config = TrainConfig.model_validate(job["config"])
    ref = ModelRef.model_validate(job["ref"])
    out, checkpoints = Path(job["out"]), Path(job["work"]) / "checkpoints"
    if sum(file.stat().st_size for file in ref.path.glob("*.safetensors")) < SMALL_MODEL:
        torch.set_num_threads(1)
    tokens = tokenize_pairs(Path(job["pairs"]), load_tokenizer(ref), config.max_length)
    trainer = build_trainer(
        ref,
        tokens,
        config,
        device=job["device"],
        checkpoints=checkpoints,
        references=Path(job["references"]),
    )
    trainer.remove_callback(PrinterCallback)
    for callback in (_watch(config), *callbacks):
        trainer.add_callback(callback)
    good = last_good(checkpoints)
    with memory_for(plan(type(trainer), tokens, config)):
        trainer.train(resume_from_checkpoint=str(good) if good else None)
    if trainer.accelerator.is_main_process:
        _save_model(trainer, config, ref, out / "model")
        _save_record(trainer, job, len(tokens), out)


def _save_record(trainer: "DPOTrainer", job: dict[str, Any], pairs: int, out: Path) -> None:
    """Write history.jsonl, a line a step, training.json, and what TensorBoard logged."""
    logged = trainer.state.log_history
    probes = {row["step"]: row for row in logged if "outcome" in row}
    history = [
        {
            "step": row["step"],
            **{name: row.get(key) for name, key in FIGURES.items()},
            **{name: probes[row["step"]][name] for name in PROBED if row["step"] in probes},
        }
        for row in logged
        if "loss" in row
    ]
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    ref = job["ref"]
    record = {
        # The name of a local model is its path: its folder is enough.
        "model": ref["name"] if ref["revision"] else Path(ref["name"]).name,
        "revision": ref["revision"],
        "weights_digest": ref["weights_digest"],
        "pairs_digest": job["pairs_digest"],
        "arguments": job["config"],
        "engine": "shared-prefix" if hasattr(trainer, "_shared") else "trl",
        "precision": "bf16" if trainer.args.bf16 else "fp32",
        "micro_batch": trainer.args.per_device_train_batch_size,
        "pairs": pairs,
        "steps": trainer.state.global_step,
        "planned_steps": trainer.state.max_steps,
        "stopped": next((row["outcome"] for row in probes.values() if row["outcome"]), None),
        "first": history[0],
        "last": history[-1],
    }
    logs = Path(job["work"]) / TENSORBOARD
    if logs.is_dir():
        shutil.copytree(logs, out / TENSORBOARD)
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def _watch(config: TrainConfig) -> Any:
    """Report every step, stop at the first loss that is not finite, seal checkpoints."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        begun = 0.0
        first_step = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun, self.first_step = time.monotonic(), state.global_step

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs = kwargs["logs"]
            if "loss" not in logs:
                return
            if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
                raise TrainingError(
                    f"Step {state.global_step}: loss {logs['loss']}, gradient norm "
                    f"{logs.get('grad_norm')}. Lower train.learning_rate or use "
                    "train.precision = fp32. Earlier checkpoints are kept."
                )
            if state.is_world_process_zero:
                steps = (state.global_step - self.first_step) / (time.monotonic() - self.begun)
                record = {name: logs[FIGURES[name]] for name in ("loss", "margin", "accuracy")}
                record |= {"step": state.global_step, "total": state.max_steps}
                record["speed"] = steps * config.batch_size
                record["left"] = (state.max_steps - state.global_step) / steps
                send(record)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()


def _save_model(trainer: "DPOTrainer", config: TrainConfig, ref: ModelRef, folder: Path) -> None:
    """Write the policy in the reference's precision; its other files are the reference's."""
    from transformers import AutoConfig

    model = trainer.accelerator.unwrap_model(trainer.model)
    keep_adapter = config.lora is not None and not config.lora.merge
    if keep_adapter:
        # An adapter names its base; a Hub id means something on other machines too.
        model.peft_config["default"].base_model_name_or_path = (
            ref.name if ref.revision else str(ref.path)
        )
    else:
        model = model.merge_and_unload() if config.lora is not None else model
        model = model.to(AutoConfig.from_pretrained(ref.path, local_files_only=True).dtype)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    for pattern in ("*.json", "*.jinja", "*.txt", "*.model"):
        for path in ref.path.glob(pattern):
            if not path.name.endswith(".index.json"):
                shutil.copy(path, folder / path.name)
    if keep_adapter:
        (folder / "config.json").unlink()  # else the folder reads as a whole model


def send(record: dict[str, Any]) -> None:
    """Tell the owning process."""
    sys.stdout.write(RECORD + json.dumps(record) + "\n")
    sys.stdout.flush()


def _die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent not in (None, os.getppid()):
            sys.exit("The process that started this one is gone.")


if __name__ == "__main__":
    main(sys.argv[1], "dpo_pipeline.training.child")
