"""Where pairs come from: what goes into every file of them, and to the Hub with them."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.system_message import DefaultSystem, describe_default_system
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.prompts.sources import Origin
from dpo_pipeline.store.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ModelOrigin(Record):
    """What a model is, told to others: a folder by its last part, no path of this machine."""

    name: str
    revision: str | None
    weights_digest: str
    template_digest: str
    kind: Literal["starter", "hub", "local"]

    @classmethod
    def of(cls, ref: ModelRef) -> "ModelOrigin":
        """Say what may be told of a model."""
        # Nothing else is called that: a folder has its path, and a model from a file its suffix.
        kind = "starter" if ref.name == "starter" else "hub" if ref.revision else "local"
        name = ref.name if ref.revision else Path(ref.name).name
        return cls.model_validate({**ref.model_dump(), "name": name, "kind": kind})


class Lineage(Record):
    """What pairs were made from.

    Attributes:
        model: The reference model.
        prompts: The source of the prompts; its digest is that of what was made of it.
        identity: Settings; null where no identity is at stake.
        generation: Settings, without where a server stands; null where nothing was generated.
        pairs: Settings; null where no pairs were made.
    """

    model: ModelOrigin
    prompts: Origin
    identity: dict[str, JsonValue] | None = None
    generation: dict[str, JsonValue] | None = None
    pairs: dict[str, JsonValue] | None = None


class Metadata(Record):
    """What every file of pairs says of itself.

    Attributes:
        strategy: Of PairsConfig, or "source" for preferences that already existed.
        max_length: Longest prompt with an answer (tokens).
        identity: Settings; null where no identity is at stake.
        model: The model whose tokenizer counted.
        format: "chat template" or "plain".
        default_system: What the chat template inserts where no system message is sent.
        source: Digest of the preference data set that they come from; null for answers.
        lineage: What the pairs were made from; null until they are saved as a dataset.
    """

    strategy: str
    max_length: int
    identity: dict[str, JsonValue] | None
    model: ModelOrigin
    format: Literal["chat template", "plain"]
    default_system: DefaultSystem
    source: str | None = None
    lineage: Lineage | None = None


def describe_pairs(
    ref: ModelRef,
    tokenizer: "PreTrainedTokenizerBase",
    config: PairsConfig,
    spec: IdentitySpec | None = None,
) -> Metadata:
    """Describe pairs in the making; no spec: no identity is at stake."""
    return Metadata(
        strategy=config.strategy if spec else "source",
        max_length=config.max_length,
        identity=spec.config.model_dump(mode="json") if spec else None,
        model=ModelOrigin.of(ref),
        format="chat template" if tokenizer.chat_template else "plain",
        default_system=describe_default_system(tokenizer, spec),
    )
