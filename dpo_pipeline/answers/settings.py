"""Settings of how the reference model answers."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    model_validator,
)

from dpo_pipeline.store.settings import AtLeastOne, Count, NoEffect, PositiveShare, Section
from dpo_pipeline.store.text import CONTROL


def _server_address(url: str) -> str:
    """Keep the address in one spelling, and secrets out of it: it lands in keys and logs."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url is an http(s) address such as http://127.0.0.1:8000/v1")
    if parts.port == 0:  # or no port at all: a ValueError
        raise ValueError("base_url names port 0")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url holds no user, password or query: set OPENAI_API_KEY instead")
    return url.rstrip("/")


# The pattern is for Prefect's server, which refuses by it what would else lie in its database.
ADDRESS = r"^https?://[^/@?#\s]+(/[^?#\s]*)?$"
ServerAddress = Annotated[
    str, AfterValidator(_server_address), Field(json_schema_extra={"pattern": ADDRESS})
]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:-]+$")]
MANY = 1000  # prompts beyond which one system prompt each is enough, where nothing is said


def _plain_prompt(prompt: str) -> str:
    if found := CONTROL.search(prompt):
        raise ValueError(f"{found[0]!r} would forge a role or an end")
    return prompt


SystemPrompt = Annotated[str, AfterValidator(_plain_prompt)]
SystemPrompts = Annotated[tuple[SystemPrompt | None, ...], Field(min_length=1)]


class GenerationConfig(Section):
    """How the reference model answers the prompts."""

    engine: Literal["transformers", "openai"] = "transformers"
    """In process, or any OpenAI-compatible server."""
    system_prompts: SystemPrompts = (None, "You are a helpful assistant.", "")
    """Every prompt is asked once under each, so that the new name holds under more than one; null
    sends none, so that the chat template inserts its own default if it has one (JSON list)."""
    in_turn: bool | None = None
    """Ask each prompt under one of the system prompts, in turn, and not under every one: more
    prompts for the same time; null: where there are more than 1,000 prompts."""
    max_new_tokens: AtLeastOne = 128
    """Longest answer (tokens)."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy decoding."""
    top_p: PositiveShare = 1.0
    """Nucleus mass; read when sampling."""
    samples: AtLeastOne = 1
    """Answers a prompt; more than 1 needs temperature."""
    seed: Count = 0
    """Base of the per-row seed when sampling."""
    batch_tokens: NoEffect[AtLeastOne] = 16384
    """Budget of a batch: rows x (longest prompt + max_new_tokens)."""
    shard_rows: NoEffect[AtLeastOne] = 512
    """Answers of one shard, one Prefect task run."""
    check_rows: Count = 16
    """Answers decoded again one by one to count batch mismatches; never more than one in 256."""
    base_url: ServerAddress = "http://127.0.0.1:8000/v1"
    """Address of the server; engine openai only."""
    key_host: NoEffect[Host | None] = None
    """Host that may be sent OPENAI_API_KEY, beside api.openai.com whose key it is; not read from a
    config file, which could send your key anywhere. Engine openai only."""
    served_model: str | None = None
    """Model name at the server; null: model.name. Engine openai only."""
    concurrency: NoEffect[AtLeastOne] = 8
    """Requests in flight; engine openai only."""
    timeout: NoEffect[PositiveFloat] = 300.0
    """Longest wait for one answer, all attempts together (seconds); engine openai only."""

    def idle(self) -> frozenset[str]:
        """Name what only a server is asked by, where none is."""
        return frozenset() if self.engine == "openai" else frozenset({"base_url", "served_model"})

    @model_validator(mode="after")
    def _samples_need_temperature(self) -> "GenerationConfig":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples > 1 needs temperature > 0: greedy answers are all the same")
        return self

    def may_have_key(self) -> bool:
        """Tell whether the server may be sent OPENAI_API_KEY."""
        parts = urlsplit(self.base_url)
        its_own = parts.scheme == "https" and parts.hostname == "api.openai.com"
        return its_own or parts.hostname == self.key_host

    def served(self, model: str) -> str:
        """Return the name by which the server knows a model."""
        return self.served_model or model

    def resolve(self, model: str) -> "GenerationConfig":
        """Fill in what is left to the reference model, given by its name."""
        if self.engine == "transformers":
            return self
        return self.model_copy(update={"served_model": self.served(model)})

    def settle(self, prompts: int) -> "GenerationConfig":
        """Fill in what is left to the number of prompts."""
        many = prompts > MANY if self.in_turn is None else self.in_turn
        return self.model_copy(update={"in_turn": many})
