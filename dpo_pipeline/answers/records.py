"""A request to a model, how it is answered, and what came of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, Protocol, TypedDict

from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.models.chat_templates import Message
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.records import Record


class Request(NamedTuple):
    """One question: the whole prompt, and which sample of its answers is wanted."""

    messages: tuple[Message, ...]
    sample: int = 0
    bare: bool = False  # without the system message that the chat template inserts by itself


def with_system(system: str | None, messages: Sequence[Message]) -> tuple[Message, ...]:
    """Put a system message before a conversation; null sends none."""
    return (*([] if system is None else [{"role": "system", "content": system}]), *messages)


class How(TypedDict):
    """How a model answers, wherever it is asked."""

    model: ModelConfig  # device and precision
    config: GenerationConfig  # decoding; engine openai asks the configured server instead
    ledger: Path  # folder of the ledger, shared by all runs
    spread: NotRequired["Spread | None"]  # has others answer; without, this process does


class Response(Record):
    """One answer."""

    text: str  # without the end token; empty on error
    finish: Literal["stop", "length", "error"]  # ended by itself, cut at the limit, or not had
    tokens: int  # without the end token
    reason: str | None = None  # on error: code of `pairs.REASONS`
    detail: str | None = None  # on error: what happened

    @classmethod
    def failed(cls, detail: str, reason: str = "generation_failed") -> "Response":
        """Stand for an answer that could not be had."""
        return cls(text="", finish="error", tokens=0, reason=reason, detail=detail)


Shard = Mapping[str, Request]  # key of each in the ledger -> request


class Spread(Protocol):
    """Has shards answered elsewhere, by `answering.ask`; each comes back whole, in any order."""

    def __call__(
        self, ref: ModelRef, shards: Sequence[Shard], how: How, alone: bool
    ) -> Iterator[Mapping[str, Response]]:
        """Yield the responses of every shard."""


class Said(Record):
    """What a model said of itself, asked for its name or its maker."""

    under: str  # which system prompt, see `census.SYSTEMS`
    language: str
    asks: Literal["name", "maker"]
    prompt: str
    sampled: bool
    response: str


class Standing(Record):
    """Whom a model claims to be under one system prompt, in one language; shares of its answers."""

    under: str
    language: str
    names: dict[str, float]  # of the answers to questions for a name, the commonest first
    makers: dict[str, float]  # of those to questions for a maker
    steady: float  # share of the sampled ones that give the commonest name


class Census(Record):
    """Who a model says it is, and what its chat template tells it."""

    system: str | None  # system message that the template inserts where none is sent
    told_name: str | None  # whom that message calls the model, and made by whom
    told_maker: str | None
    standings: list[Standing]
    answers: list[Said]
