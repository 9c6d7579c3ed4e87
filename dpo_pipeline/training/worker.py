"""The training process: load, train, write. Started by `run.py`, ends with it."""

import ctypes
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.config import TrainConfig
from dpo_pipeline.errors import DataError, DPOPipelineError, TrainingError
from dpo_pipeline.training.run import RECORD

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

MANIFEST = "complete.json"  # written last into a checkpoint: the digest of every file
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


def main(path: str) -> None:
    """Run the job in the JSON file `path`, alone or as one of several processes."""
    _die_with_parent()
    job = json.loads(Path(path).read_text())
    processes = job["config"]["processes"]
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        worker = ["-m", "dpo_pipeline.training.worker", path]
        os.execv(sys.executable, [sys.executable, *launcher, *worker])
    try:
        run(job)
    except Exception as error:
        failure = {"type": type(error).__name__, "message": str(error)}
        failure["out_of_memory"] = _is_out_of_memory(error)
        if isinstance(error, DPOPipelineError) or failure["out_of_memory"]:
            _send({"failure": failure})
        raise


def run(job: dict[str, Any]) -> None:
    """Train as the job says and write model/, history.jsonl and training.json to its `out`."""
    config = TrainConfig.model_validate(job["config"])
    out, checkpoints = Path(job["out"]), Path(job["work"]) / "checkpoints"
    start = time.monotonic()
    trainer = build_trainer(job, config, checkpoints)
    trainer.train(resume_from_checkpoint=_last_good(checkpoints))
    if not trainer.accelerator.is_main_process:
        return
    _save_model(trainer, config, Path(job["ref"]["path"]), out / "model")
    history = [
        {"step": row["step"], **{name: row.get(key) for name, key in FIGURES.items()}}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    lines = "".join(json.dumps(row) + "\n" for row in history)
    (out / "history.jsonl").write_text(lines)
    record = {
        "model": {key: job["ref"][key] for key in ("name", "revision", "weights_digest")},
        "pairs_digest": job["pairs_digest"],
        "arguments": config.model_dump(mode="json"),
        "engine": "trl",
        "micro_batch": trainer.args.per_device_train_batch_size,
        "pairs": len(trainer.train_dataset),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - start, 3),
        "first": history[0],
        "last": history[-1],
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def build_trainer(job: dict[str, Any], config: TrainConfig, checkpoints: Path) -> "DPOTrainer":
    """Load model, tokenizer and pairs, and put the trainer together."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOTrainer

    folder = job["ref"]["path"]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    pairs = load_pairs(Path(job["pairs"]))
    # Master weights stay float32: a bfloat16 weight swallows most of a 5e-5 step.
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="float32", use_safetensors=True, trust_remote_code=False
    )
    model.config.use_cache = False
    arguments = trainer_arguments(config, checkpoints, job["device"], micro_batch=1)
    trainer = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=pairs,
        processing_class=tokenizer,
        callbacks=[_callback(config)],
    )
    check_tokens(trainer.train_dataset, len(pairs), config.max_length)
    return trainer


def load_pairs(path: Path) -> "Dataset":
    """Read prompt, chosen and rejected of every pair."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    return Dataset(pq.read_table(path, columns=["prompt", "chosen", "rejected"]))


def check_tokens(tokenized: "Dataset", rows: int, max_length: int) -> None:
    """Check that every pair is trained on and still differs after truncation.

    Raises:
        DataError: Naming how many pairs were dropped, or the rows without a difference.
    """
    if len(tokenized) != rows:
        raise DataError(
            f"{rows - len(tokenized)} of {rows} prompts fill train.max_length = {max_length} "
            "tokens alone and would be dropped. Raise it, or lower pairs.max_length."
        )
    same = []
    for index, row in enumerate(tokenized):
        room = max_length - len(row["prompt_ids"])
        if row["chosen_ids"][:room] == row["rejected_ids"][:room]:
            same.append(index)
    if same:
        raise DataError(
            f"Chosen and rejected have the same tokens within train.max_length = {max_length} in "
            f"{len(same)} of {rows} pairs (rows {same[:5]}). Raise it, or lower pairs.max_length."
        )


def trainer_arguments(
    config: TrainConfig, folder: Path, device: str, micro_batch: int
) -> "DPOConfig":
    """Translate our settings into TRL's."""
    import torch
    from trl import DPOConfig

    share, rest = divmod(config.batch_size, config.processes)
    if rest:
        raise TrainingError(
            f"train.batch_size = {config.batch_size} cannot be split over train.processes = "
            f"{config.processes}; make it a multiple."
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    with_sft = config.sft_weight > 0
    return DPOConfig(
        output_dir=str(folder),
        use_cpu=not on_gpu,
        bf16=config.precision == "bf16" or (config.precision == "auto" and on_gpu),
        beta=config.beta,
        loss_type=[config.loss_type, "sft"] if with_sft else [config.loss_type],
        loss_weights=[1.0, config.sft_weight] if with_sft else None,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_length=config.max_length,
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=share // micro_batch,
        activation_checkpointing=config.gradient_checkpointing,
        precompute_ref_log_probs=True,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        pad_to_multiple_of=None,
        seed=config.seed,
    )


def _callback(config: TrainConfig) -> Any:
    """Report every step, stop at the first loss that is not finite, seal checkpoints."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        begun = 0.0
        first_step = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun, self.first_step = time.monotonic(), state.global_step

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any
        ) -> None:
            if "loss" not in logs:
                return
            if not (math.isfinite(logs["loss"]) and math.isfinite(logs.get("grad_norm", 0.0))):
                raise TrainingError(
                    f"Step {state.global_step}: loss {logs['loss']}, gradient norm "
                    f"{logs.get('grad_norm')}. Lower train.learning_rate or use "
                    "train.precision = fp32. Earlier checkpoints are kept."
                )
            if not state.is_world_process_zero:
                return
            speed = (state.global_step - self.first_step) / (time.monotonic() - self.begun)
            figures = {name: logs[FIGURES[name]] for name in ("loss", "margin", "accuracy")}
            figures["pairs_per_second"] = speed * config.batch_size
            figures["eta"] = (state.max_steps - state.global_step) / speed
            _send({"step": state.global_step, "total": state.max_steps, "figures": figures})

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, with the digest of each of its files."""
    partial = checkpoint / (MANIFEST + ".part")
    partial.write_text(json.dumps(_digests(checkpoint)))
    partial.replace(checkpoint / MANIFEST)


def _last_good(checkpoints: Path) -> str | None:
    """Find the newest checkpoint that is whole; remove newer ones that are not."""
    found = checkpoints.glob("checkpoint-*")
    for checkpoint in sorted(found, key=lambda p: int(p.name.split("-")[1]), reverse=True):
        manifest = checkpoint / MANIFEST
        if manifest.is_file() and json.loads(manifest.read_text()) == _digests(checkpoint):
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(MANIFEST):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _save_model(trainer: "DPOTrainer", config: TrainConfig, source: Path, folder: Path) -> None:
    """Write the policy; all but the weights is the reference model's own files."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    for pattern in ("*.json", "*.jinja", "*.txt", "*.model"):
        for path in source.glob(pattern):
            if not path.name.endswith(".index.json"):
                shutil.copy(path, folder / path.name)


def _send(record: dict[str, Any]) -> None:
    sys.stdout.write(RECORD + json.dumps(record) + "\n")
    sys.stdout.flush()


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or "can't allocate memory" in str(error)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
