"""A request to a model, its answer, and what a stage tells of many."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from dpo_pipeline.models.chat_templates import Message
from dpo_pipeline.store.records import Record


class Request(NamedTuple):
    """One question: the whole prompt, and which sample of its answers is wanted."""

    messages: tuple[Message, ...]
    sample: int = 0


class Response(Record):
    """One answer.

    Attributes:
        text: What the model said, without the end token; empty on error.
        finish: "stop" (it ended by itself), "length" (cut at the limit), or "error".
        tokens: Length of the answer (tokens); the end token does not count.
        reason: Code of `pairs.REASONS`; only on error.
        detail: What happened; only on error.
    """

    text: str
    finish: Literal["stop", "length", "error"]
    tokens: int
    reason: str | None = None
    detail: str | None = None

    @classmethod
    def failed(cls, detail: str, reason: str = "generation_failed") -> "Response":
        """Stand for an answer that could not be had."""
        return cls(text="", finish="error", tokens=0, reason=reason, detail=detail)


class AnswerCounts(Record):
    """How many answers ended how, and their tokens; unfinished: failures that may pass."""

    rows: int = 0
    stop: int = 0
    length: int = 0
    error: int = 0
    unfinished: int = 0
    tokens: int = 0

    @classmethod
    def of(cls, responses: Sequence[Response]) -> Self:
        """Count answers."""
        finishes: Counter[str] = Counter(response.finish for response in responses)
        return cls(
            rows=len(responses),
            **finishes,
            unfinished=sum(response.reason == "generation_failed" for response in responses),
            tokens=sum(response.tokens for response in responses),
        )


class ShardStats(AnswerCounts):
    """What answering one shard came to, and the time it took (seconds)."""

    seconds: float = 0.0


class Said(Record):
    """What a model said of itself when it was asked under a system prompt; null sent none."""

    system: str | None
    prompt: str
    response: str


class Census(Record):
    """Questions asked, answers among them that give the original name, and all answers."""

    asked: int
    named: int
    answers: list[Said]


class AnswerStats(AnswerCounts):
    """What the generate stage tells.

    Attributes:
        probe: Who the model says it is, asked before anything else.
        checked: Answers decoded again one by one.
        mismatched: Those among them that came out different.
    """

    probe: Census | None = None
    checked: int = 0
    mismatched: int = 0


def with_system(system: str | None, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Put a system message before a conversation; null sends none."""
    return (*([] if system is None else [{"role": "system", "content": system}]), *messages)
