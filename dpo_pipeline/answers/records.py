"""A request to a model, and its answer."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.models.chat_templates import Message


class Request(NamedTuple):
    """One question: the whole prompt, and which sample of its answers is wanted."""

    messages: tuple[Message, ...]
    sample: int = 0


class Response(BaseModel):
    """One answer.

    Attributes:
        text: What the model said, without the end token; empty on error.
        finish: "stop" (it ended by itself), "length" (cut at the limit), or "error".
        tokens: Length of the answer (tokens); the end token does not count.
        reason: Code of `pairs.REASONS`; only on error.
        detail: What happened; only on error.
    """

    model_config = ConfigDict(frozen=True)

    text: str
    finish: Literal["stop", "length", "error"]
    tokens: int
    reason: str | None = None
    detail: str | None = None

    @classmethod
    def failed(cls, detail: str, reason: str = "generation_failed") -> "Response":
        """Stand for an answer that could not be had."""
        return cls(text="", finish="error", tokens=0, reason=reason, detail=detail)


def with_system(system: str | None, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Put a system message before a conversation; null sends none."""
    return (*([] if system is None else [{"role": "system", "content": system}]), *messages)
