"""Tokenizers and models loaded, on some device, in some precision; none runs code of its own."""

import ctypes
import gc
import logging
import os
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.references import (
    CONFIG,
    ModelRef,
    as_described,
    base_of,
    read_object,
)
from dpo_pipeline.models.settings import Precision

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NARROW = 256  # models below this width are slower in bfloat16 than in float32 on a CPU


def pick_device(name: str) -> "torch.device":
    """Turn "auto" into the GPU if there is one, and refuse a GPU that is not there.

    Raises:
        ModelError: "cuda" without a GPU that torch can use.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ModelError("model.device is cuda, but torch sees no GPU: set it to auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def pick_precision(ref: ModelRef, device: str, dtype: Precision) -> Literal["float32", "bfloat16"]:
    """Turn "auto" into bfloat16 where the hardware computes it well, else into float32.

    That is a GPU, or a CPU with bfloat16 instructions and a model wide enough to gain. It
    depends on hardware and architecture only: a model before and after training gets the same.
    """
    if dtype != "auto":
        return dtype
    import torch

    if pick_device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        whole = base_of(ref.path, ref.name) or ref
        shape = read_object(whole.path / CONFIG, ref.name)
        width = shape.get("hidden_size", shape.get("n_embd"))
        known = torch.cpu.get_capabilities()
        fast = any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
        fast = fast and isinstance(width, int) and width >= NARROW
    return "bfloat16" if fast else "float32"


def load_tokenizer(ref: ModelRef) -> "PreTrainedTokenizerBase":
    """Load the tokenizer; one without a pad token pads with its end token.

    Raises:
        ModelError: It does not load without code of its own, or does not keep words; or its files
            are not those that were described.
    """
    from transformers import AutoTokenizer

    remedy = f"save the model's own in {ref.path}"
    with as_described(ref, "template"):
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                ref.path, trust_remote_code=False, local_files_only=True
            )
            kept = str(tokenizer.decode(tokenizer("Who are you?")["input_ids"]))
            if tokenizer.chat_template:  # or of several the one that is meant
                tokenizer.chat_template = tokenizer.get_chat_template()
        except Exception as error:  # of any kind: its files may say anything
            told = f"{type(error).__name__}: {error}"
            raise ModelError(
                f"{ref.name}: its tokenizer, or its config, does not load: {told}; {remedy}"
            ) from error
    # Where files are missing or name another class, transformers may make one without words.
    if "who" not in kept.lower():
        raise ModelError(f"{ref.name}: its tokenizer loses the words of 'Who are you?'; {remedy}")
    if not isinstance(tokenizer.chat_template, str | None):
        raise ModelError(f"{ref.name}: its chat template is no text; {remedy}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(ref: ModelRef, device: str = "auto", dtype: Precision = "auto") -> "PreTrainedModel":
    """Load the weights, whole, for inference.

    Raises:
        ModelError: A tensor is missing, of another shape or no number, or the architecture needs
            code that does not come with transformers; or the files are not those that were
            described.
    """
    place, precision = pick_device(device), pick_precision(ref, device, dtype)
    with as_described(ref, "weights"):
        try:
            model, missing = _read(ref, precision)
        except Exception as error:  # of any kind: its files may say anything
            told = f"{type(error).__name__}: {error}"
            raise ModelError(f"{ref.name}: does not load from {ref.path}: {told}") from error
        if missing:
            raise ModelError(
                f"{ref.name}: {len(missing)} tensors are missing from {ref.path} "
                f"({', '.join(missing[:3])}): the copy is damaged or of another architecture; "
                "download it again"
            )
        for tensor in (*model.parameters(), *model.buffers()):
            # Else it is the file, mapped into memory, and changes with it.
            tensor.data = tensor.data.to(place, copy=True)
    if broken := [n for n, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise ModelError(
            f"{ref.name}: {len(broken)} tensors in {ref.path} hold NaN or infinity "
            f"({', '.join(broken[:3])}): its training diverged or the copy is damaged; take another"
        )
    return model.eval()  # type: ignore[no-any-return]


def _read(ref: ModelRef, precision: str) -> "tuple[PreTrainedModel, list[str]]":
    """Read a model, or an adapter into its base; returns it and the names of missing tensors."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # callers have their own
    base = base_of(ref.path, ref.name)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        (base or ref).path,
        dtype=getattr(torch, precision),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    model, info = loaded
    missing = set(info["missing_keys"])
    if base:
        missing |= model.load_adapter(str(ref.path), use_safetensors=True).missing_keys
    return model, sorted(missing)


@lru_cache(maxsize=1)
def kept_model(
    ref: ModelRef, device: str, dtype: Precision
) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel"]:
    """Load a model and its tokenizer, and keep those of the last call for the next."""
    logger.info("process %d loads %s", os.getpid(), ref.name)
    return load_tokenizer(ref), load_model(ref, device, dtype)


def let_go_model() -> None:
    """Give back the memory of the kept model, for a process that needs it more."""
    if kept_model.cache_info().currsize:
        import torch

        kept_model.cache_clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _return_freed_memory()


def _return_freed_memory() -> None:
    """Have the C library return what was freed: after some thousand answers it keeps gigabytes."""
    with suppress(AttributeError):  # another library than glibc, which keeps less
        ctypes.CDLL(None).malloc_trim(0)
