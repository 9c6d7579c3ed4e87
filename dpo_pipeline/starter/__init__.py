"""The starter: a tiny chat model of the Qwen2 architecture, built from a corpus written here."""

from dpo_pipeline.starter.build import build_starter

__all__ = ["build_starter"]
