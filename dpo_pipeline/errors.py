"""The error tree: every failure this project raises on purpose.

    DPOPipelineError
    ├── SettingsError(ValueError)      what a run is asked for makes no sense
    ├── DataError(ValueError)          a source, a row or a dataset cannot be used
    ├── ModelError(ValueError)         a model or tokenizer cannot be found, trusted or loaded
    ├── GenerationError(RuntimeError)  the model did not answer, or not as itself
    ├── TrainingError(RuntimeError)    training diverged, ran out of memory or died
    ├── EvaluationError(RuntimeError)  a score cannot be computed
    ├── WorkerError(RuntimeError)      a worker was lost, or is not fit for the work
    ├── StoreError(OSError)            an artifact cannot be written or read back whole
    └── PublishError(RuntimeError)     the Hub, or the evidence, refuses

Each is also the fitting built-in, so callers may catch either. A message says what
happened, to which value or row, and what to do about it. What pydantic says of a setting
becomes one SettingsError.
"""

from dpo_pipeline.plaintext import plain


class DPOPipelineError(Exception):
    """Base of every error the pipeline raises on purpose; its message may be told anywhere."""

    def __str__(self) -> str:
        return plain(super().__str__())


class SettingsError(DPOPipelineError, ValueError):
    """What a run is asked for makes no sense: an unknown setting, a wrong value, a missing file."""


class DataError(DPOPipelineError, ValueError):
    """A source, a row or a dataset cannot be used."""


class ModelError(DPOPipelineError, ValueError):
    """A model or tokenizer cannot be found, trusted or loaded."""


class GenerationError(DPOPipelineError, RuntimeError):
    """The model did not answer, or never gave the configured original name."""


class TrainingError(DPOPipelineError, RuntimeError):
    """Training diverged, ran out of memory or died."""


class EvaluationError(DPOPipelineError, RuntimeError):
    """A score cannot be computed."""


class WorkerError(DPOPipelineError, RuntimeError):
    """A worker was lost time and again, or is not fit for the work."""


class StoreError(DPOPipelineError, OSError):
    """An artifact cannot be written, or read back whole."""


class PublishError(DPOPipelineError, RuntimeError):
    """The Hub refuses, or the evidence does not allow publishing."""
