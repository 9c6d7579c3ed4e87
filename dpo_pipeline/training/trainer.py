"""Put model, tokens and settings together into the trainer that fits them."""

import importlib.util
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.models.loading import load_model, load_tokenizer, pick_device, pick_precision
from dpo_pipeline.models.references import as_described
from dpo_pipeline.training.records import OutOfMemoryError, TrainJob
from dpo_pipeline.training.retention import RetainingDPOTrainer, Retention
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.shared_prefixes import (
    NotExactError,
    SharedPrefixDPOTrainer,
    packed_states,
)
from dpo_pipeline.training.token_scores import Tokens
from dpo_pipeline.training.tokens import MicroBatch, micro_batch, read_held

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel
    from trl.trainer.dpo_config import DPOConfig

logger = logging.getLogger(__name__)

PRECISIONS: dict[str, Any] = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16"}


class PackedDPOTrainer(SharedPrefixDPOTrainer, RetainingDPOTrainer):
    """Shared prefixes, for the reference and for what is held as well."""

    def _states(self, rows: Sequence[Tokens]) -> torch.Tensor:
        return packed_states(self.accelerator.unwrap_model(self.model), rows)


def build_trainer(job: TrainJob, tokens: "Dataset") -> tuple[RetainingDPOTrainer, str | None]:
    """Build the trainer of tokenized pairs; the plain one where shared prefixes are not exact.

    Returns:
        The trainer, and why it is the plain one where it was to be the other.

    Raises:
        TrainingError: A setting does not fit the model, the machine or another setting.
    """
    if pick_device(job.device).type == "cpu":
        use_fast_exact_matmul()
    fallback = None
    if job.config.engine != "trl":
        try:
            return _assemble(PackedDPOTrainer, job, tokens), None
        except NotExactError as error:
            name, fallback = job.ref.name, str(error)
            if job.config.engine == "shared-prefix":
                raise TrainingError(
                    f"train.engine = shared-prefix does not fit {name}: {error}. Use auto."
                ) from error
            logger.warning("Shared prefixes are not exact for %s: %s. Using TRL.", name, error)
    return _assemble(RetainingDPOTrainer, job, tokens), fallback


def _assemble(
    kind: type[RetainingDPOTrainer], job: TrainJob, tokens: "Dataset"
) -> RetainingDPOTrainer:
    at_once = plan(kind, tokens, job.config)
    with memory_for(at_once):
        return kind(
            args=trainer_arguments(job, at_once.pairs),  # first: they choose this process's GPU
            model=_load_policy(job),
            train_dataset=tokens,
            processing_class=load_tokenizer(job.ref),
            peft_config=_adapters(job.config),
            folder=job.references,
            digest=job.ref.weights_digest,
            retention=_retention(job, at_once.pairs),
        )


def _retention(job: TrainJob, at_once: int) -> Retention | None:
    """Take the rows that training will come to, in the order that its seed gives."""
    config = job.config
    if not config.retention_weight or job.retention is None:
        return None
    share = config.retention_rows * at_once / config.batch_size
    rows = read_held(job.retention, load_tokenizer(job.ref), config.retention_tokens)
    random.Random(config.seed).shuffle(rows)
    aimed = config.method == "lora" and config.lora.start == "aimed"
    return Retention(rows, config.retention_weight, max(1, round(share)), aimed)


def plan(kind: type, tokens: "Dataset", config: TrainConfig) -> MicroBatch:
    """Choose what goes through the model at once with a trainer of this kind."""
    share = config.batch_size // config.processes
    packed = issubclass(kind, SharedPrefixDPOTrainer)
    return micro_batch(tokens, share, config.row_tokens, config.max_length, packed=packed)


@contextmanager
def memory_for(at_once: MicroBatch) -> Iterator[None]:
    """Turn running out of memory into an OutOfMemoryError, which knows how to go on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not known and "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(at_once.pairs, at_once.tokens) from error


def _load_policy(job: TrainJob) -> "PreTrainedModel":
    if job.config.method == "full" or not job.config.lora.quantize:
        # Master weights stay float32: a bfloat16 weight swallows most of a 5e-5 step.
        model = load_model(job.ref, job.device, "float32")
        model.config.use_cache = False
        return model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    on_gpu = pick_device(job.device).type == "cuda"
    if not on_gpu or importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError(
            "train.lora.quantize needs a CUDA GPU and bitsandbytes (pip install bitsandbytes)."
        )
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    how: Any = {"quantization_config": quantization, "use_safetensors": True}
    with as_described(job.ref, "weights"):  # on the GPU when it is loaded
        return AutoModelForCausalLM.from_pretrained(job.ref.path, **how, local_files_only=True)


def _adapters(config: TrainConfig) -> Any:
    from peft import LoraConfig

    lora = config.lora
    if config.method == "full":
        return None
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def trainer_arguments(job: TrainJob, at_once: int) -> "DPOConfig":
    """Translate our settings into TRL's, with `at_once` pairs through the model in each process.

    Raises:
        TrainingError: A tracker is not installed, or the settings are not resolved.
    """
    from trl.trainer.dpo_config import DPOConfig

    config, device = job.config, pick_device(job.device).type
    for tracker in config.report_to:
        if importlib.util.find_spec(tracker) is None:
            raise TrainingError(f"train.report_to names {tracker}: pip install {tracker}.")
    if config.learning_rate is None:
        raise TrainingError("train.learning_rate is left to the model: use TrainConfig.resolve()")
    losses = {config.loss_type: 1.0}
    if config.sft_weight and config.loss_type != "sft":
        losses["sft"] = config.sft_weight
    return DPOConfig(
        output_dir=str(job.checkpoints),
        use_cpu=device == "cpu",
        bf16=pick_precision(job.ref, device, PRECISIONS[config.precision]) == "bfloat16",
        beta=config.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup,
        max_grad_norm=config.max_grad_norm,
        num_train_epochs=config.epochs or 1.0,
        max_steps=config.max_steps or -1,
        max_length=config.max_length,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=config.batch_size // config.processes // at_once,
        activation_checkpointing=config.gradient_checkpointing,
        # Never TRL's own reference: it would load again from a path that may have moved.
        precompute_ref_log_probs=True,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=list(config.report_to) or "none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        seed=config.seed,
    )


def use_fast_exact_matmul() -> None:
    """Let oneDNN multiply float32 where it does so exactly: twice as fast as MKL on some CPUs.

    Asking for bfloat16 selects its kernels; on CPUs without such instructions for matrices
    they compute in float32 all the same, on others they round.
    """
    kernels: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = kernels.fp32_precision
    kernels.fp32_precision = "bf16"
    numbers = torch.rand(256, 256) + 2.0**-20
    if not torch.equal(numbers @ torch.eye(256), numbers):
        kernels.fp32_precision = before
