"""The training process: load, train, write. Started by `run.py`, ends with it."""

import ctypes
import hashlib
import importlib.util
import json
import logging
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.config import TrainConfig
from dpo_pipeline.errors import DPOPipelineError, TrainingError
from dpo_pipeline.models import ModelRef, load_model, load_tokenizer, pick_device
from dpo_pipeline.training.reference import CachedReference
from dpo_pipeline.training.run import RECORD
from dpo_pipeline.training.tokens import micro_batch, tokenize_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

log = logging.getLogger("dpo_pipeline.training")

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
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = json.loads(Path(path).read_text())
    processes = job["config"]["processes"]
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        worker = ["-m", "dpo_pipeline.training.worker", path]
        os.execv(sys.executable, [sys.executable, *launcher, *worker])
    try:
        run(job)
    except DPOPipelineError as error:
        _send({"failure": {"type": type(error).__name__, "message": str(error)}})
        raise
    except (RuntimeError, MemoryError) as error:
        if _is_out_of_memory(error):
            _send({"failure": _too_large(job)})
        raise


def run(job: dict[str, Any]) -> None:
    """Train as the job says and write model/, history.jsonl and training.json to its `out`."""
    config = TrainConfig.model_validate(job["config"])
    ref = ModelRef.model_validate(job["ref"])
    out, checkpoints = Path(job["out"]), Path(job["work"]) / "checkpoints"
    start = time.monotonic()
    trainer, engine = build_trainer(job, ref, config)
    trainer.train(resume_from_checkpoint=last_good(checkpoints))
    if not trainer.accelerator.is_main_process:
        return
    _save_model(trainer, config, ref, out / "model")
    history = [
        {"step": row["step"], **{name: row.get(key) for name, key in FIGURES.items()}}
        for row in trainer.state.log_history
        if "loss" in row
    ]
    (out / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    record = {
        "model": ref.model_dump(mode="json", include={"name", "revision", "weights_digest"}),
        "pairs_digest": job["pairs_digest"],
        "arguments": config.model_dump(mode="json"),
        "engine": engine,
        "micro_batch": trainer.args.per_device_train_batch_size,
        "pairs": len(trainer.train_dataset),
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - start, 3),
        "first": history[0],
        "last": history[-1],
    }
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def build_trainer(
    job: dict[str, Any], ref: ModelRef, config: TrainConfig
) -> "tuple[DPOTrainer, str]":
    """Put the trainer together; the plain one where shared prefixes are not exact."""
    from trl.trainer.dpo_trainer import DPOTrainer

    from dpo_pipeline.training.shared_prefix import NotExactError, SharedPrefixDPOTrainer

    if config.engine != "trl":
        try:
            return assemble(job, ref, config, SharedPrefixDPOTrainer), "shared-prefix"
        except NotExactError as error:
            if config.engine == "shared-prefix":
                raise TrainingError(
                    f"train.engine = shared-prefix does not fit {ref.name}: {error}. Use auto."
                ) from error
            log.warning("Shared prefixes are not exact for %s: %s. Using TRL.", ref.name, error)
    return assemble(job, ref, config, DPOTrainer), "trl"


def assemble(
    job: dict[str, Any], ref: ModelRef, config: TrainConfig, engine: "type[DPOTrainer]"
) -> "DPOTrainer":
    """Load model, tokenizer and pairs into a trainer of the given class."""
    from transformers import PrinterCallback

    tokenizer = load_tokenizer(ref)
    tokens = tokenize_pairs(Path(job["pairs"]), tokenizer, config.max_length)
    share, rest = divmod(config.batch_size, config.processes)
    if rest:
        raise TrainingError(
            f"train.batch_size = {config.batch_size} cannot be split over train.processes = "
            f"{config.processes}; make it a multiple."
        )
    packed = engine.__name__ == "SharedPrefixDPOTrainer"
    job["at_once"] = micro_batch(tokens, share, config.row_tokens, config.max_length, packed=packed)
    on_gpu = pick_device(job["device"]).type == "cuda"
    if not on_gpu:
        use_fast_exact_matmul()
    cached = type(engine.__name__, (CachedReference, engine), {})
    trainer: DPOTrainer = cached(
        model=_load_policy(ref, config, on_gpu),
        args=trainer_arguments(config, Path(job["work"]), on_gpu, job["at_once"][0], share),
        train_dataset=tokens,
        processing_class=tokenizer,
        peft_config=_adapters(config),
        callbacks=[_callback(config)],
        folder=Path(job["work"]) / "reference",
        digest=ref.weights_digest,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _load_policy(ref: ModelRef, config: TrainConfig, on_gpu: bool) -> "PreTrainedModel":
    if config.lora is None or not config.lora.quantize:
        # Master weights stay float32: a bfloat16 weight swallows most of a 5e-5 step.
        model = load_model(ref, "cuda" if on_gpu else "cpu", "float32")
        model.config.use_cache = False
        return model
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if not on_gpu or importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError(
            "train.lora.quantize needs a CUDA GPU and bitsandbytes (pip install bitsandbytes)."
        )
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    return AutoModelForCausalLM.from_pretrained(
        ref.path, quantization_config=quantization, use_safetensors=True, local_files_only=True
    )


def _adapters(config: TrainConfig) -> Any:
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def trainer_arguments(
    config: TrainConfig, work: Path, on_gpu: bool, at_once: int, share: int
) -> "DPOConfig":
    """Translate our settings into TRL's.

    Args:
        config: Our settings.
        work: Folder of checkpoints and tracker logs.
        on_gpu: Whether to train on the GPU.
        at_once: Pairs that go through the model at once, of one process.
        share: Pairs an optimizer step, of one process.
    """
    from trl.trainer.dpo_config import DPOConfig

    for tracker in config.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise TrainingError(f"train.report_to names {tracker}: pip install {tracker}.")
    losses = {config.loss_type: 1.0} | ({"sft": config.sft_weight} if config.sft_weight else {})
    return DPOConfig(
        output_dir=str(work / "checkpoints"),
        use_cpu=not on_gpu,
        bf16=config.precision == "bf16" or (config.precision == "auto" and on_gpu),
        beta=config.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs,
        max_length=config.max_length,
        per_device_train_batch_size=at_once,
        per_device_eval_batch_size=at_once,
        gradient_accumulation_steps=share // at_once,
        activation_checkpointing=config.gradient_checkpointing,
        # Never TRL's own reference: it would load again from a path that may have moved.
        precompute_ref_log_probs=True,
        pad_to_multiple_of=None,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        seed=config.seed,
    )


def _callback(config: TrainConfig) -> Any:
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
                _send(record)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.is_world_process_zero:
                seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return Watch()


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as complete, with the digest of each of its files."""
    partial = checkpoint / (MANIFEST + ".part")
    partial.write_text(json.dumps(_digests(checkpoint)))
    partial.replace(checkpoint / MANIFEST)


def last_good(checkpoints: Path) -> str | None:
    """Find the newest checkpoint that is whole; others are of no use."""
    found = checkpoints.glob("checkpoint-*")
    for checkpoint in sorted(found, key=lambda path: -int(path.name.split("-")[1])):
        manifest = checkpoint / MANIFEST
        if manifest.is_file() and json.loads(manifest.read_text()) == _digests(checkpoint):
            return str(checkpoint)
        log.warning("%s is not whole; trying an older one", checkpoint.name)
    return None


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(MANIFEST):
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


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


def use_fast_exact_matmul() -> None:
    """Let oneDNN multiply float32 where it does so exactly: twice as fast as MKL on some CPUs.

    Asking for bfloat16 selects its kernels; on CPUs without such instructions for matrices
    they compute in float32 all the same, on others they round.
    """
    import torch

    kernels: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = kernels.fp32_precision
    kernels.fp32_precision = "bf16"
    numbers = torch.rand(256, 256) + 2.0**-20
    if not torch.equal(numbers @ torch.eye(256), numbers):
        kernels.fp32_precision = before


def _send(record: dict[str, Any]) -> None:
    sys.stdout.write(RECORD + json.dumps(record) + "\n")
    sys.stdout.flush()


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error)


def _too_large(job: dict[str, Any]) -> dict[str, Any]:
    """Describe how to go on after memory ran out: with half the tokens, if pairs can be split."""
    pairs, tokens = job.get("at_once", (1, 0))
    message = f"Out of memory with {pairs} pairs, {tokens} tokens, at once"
    if pairs > 1:
        return {"type": "TrainingError", "message": message, "budget": tokens // 2}
    message += (
        ". Lower train.max_length, set train.gradient_checkpointing or train.lora, or use a "
        "smaller model. Checkpoints are kept."
    )
    return {"type": "TrainingError", "message": message}


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
