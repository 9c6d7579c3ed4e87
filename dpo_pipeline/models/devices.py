"""Where a model runs, and in which precision."""

import json
from typing import TYPE_CHECKING, Literal

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import Precision

if TYPE_CHECKING:
    import torch

# Models below this width are slower in bfloat16 than in float32 on a CPU.
NARROW = 256


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
        file = ref.path / "config.json"
        shape = json.loads(file.read_bytes()) if file.is_file() else {}
        known = torch.cpu.get_capabilities()
        fast = any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
        fast = fast and shape.get("hidden_size", shape.get("n_embd", 0)) >= NARROW
    return "bfloat16" if fast else "float32"
