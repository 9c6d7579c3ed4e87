"""DPO training: the loss, the shared-prefix trainer, reference log-probs, the run."""

from dpo_pipeline.training.run import train

__all__ = ["train"]
