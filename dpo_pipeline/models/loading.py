"""Tokenizers and models from what a reference names, with nothing run that they bring along."""

from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.devices import pick_device, pick_precision
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import Precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(ref: ModelRef) -> "PreTrainedTokenizerBase":
    """Load the tokenizer; one without a pad token pads with its end token.

    Raises:
        ModelError: It does not load without code of its own, or does not keep words.
    """
    from transformers import AutoTokenizer

    remedy = f"save the model's tokenizer in {ref.path}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            ref.path, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{ref.name}: its tokenizer does not load: {error}; {remedy}") from error
    # Where files are missing or name another class, transformers may make one without words.
    kept = str(tokenizer.decode(tokenizer("Who are you?")["input_ids"]))
    if "who" not in kept.lower():
        raise ModelError(f"{ref.name}: its tokenizer loses the words of 'Who are you?'; {remedy}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(ref: ModelRef, device: str = "auto", dtype: Precision = "auto") -> "PreTrainedModel":
    """Load the weights, whole, for inference.

    Args:
        ref: The model.
        device: "auto", "cpu" or "cuda".
        dtype: Precision; auto as in `pick_precision`.
    Raises:
        ModelError: A tensor is missing or of another shape, or the architecture needs code
            that does not come with transformers.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # callers have their own
    place = pick_device(device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            ref.path,
            dtype=getattr(torch, pick_precision(ref, device, dtype)),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{ref.name}: does not load from {ref.path}: {error}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{ref.name}: {len(missing)} tensors are missing from {ref.path} "
            f"({', '.join(missing[:3])}): the copy is damaged or of another architecture; "
            "download it again"
        )
    return model.to(place).eval()  # type: ignore[no-any-return]
