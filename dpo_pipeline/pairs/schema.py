"""What the files of pairs hold: columns, flags, reasons, and where all of it came from."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import JsonValue

from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.system_message import DefaultSystem, describe_default_system
from dpo_pipeline.models.references import GgufOrigin, ModelRef
from dpo_pipeline.pairs.settings import WAYS, PairsConfig
from dpo_pipeline.prompts.quarantine import QUARANTINE, name_rows
from dpo_pipeline.prompts.sources import Origin
from dpo_pipeline.store.digests import canonical
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import messages_type, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METADATA_KEY = b"dpo_pipeline"

# Flag of a pair -> what it means.
FLAGS = {
    "cut": "the model's answer reached generation.max_new_tokens; of a replaced one both sides end "
    "with its last whole sentence",
    "name_in_context": "an earlier message of the prompt gives the original name",
    "boundary": "the end of the prompt merges with the start of the answer into one token",
}

# Column of a pair -> what it means.
COLUMNS = {
    "prompt": "messages, the system message first if one was sent, the last one from the user",
    "chosen": "the completion to prefer: one message",
    "rejected": "the completion to avoid: one message",
    "id": "digest of the row",
    "prompt_id": "digest of the prompt without its system message",
    "source_row": "row of the source, from 0",
    "family": "kind of question",
    "language": "language of the prompt",
    "turns": "messages from the user in the prompt",
    "split": "train or held_out",
    "system": "the system message that was sent; null: none, the chat template's default applies",
    "way": "how chosen was found: replaced, transferred, instructed, filled (see pairs.ways); or "
    "given, by a preference data set",
    "spans": "edits: start and end in rejected, then in chosen (characters)",
    "prompt_tokens": "length of the rendered prompt (tokens)",
    "chosen_tokens": "length of chosen with its end (tokens)",
    "rejected_tokens": "length of rejected with its end (tokens)",
    "flags": "remarks",
}

# The columns that a pair takes from its row as they are.
FACTS = ("id", "prompt_id", "source_row", "family", "language", "turns", "split", "system")
SPAN_ENDS = ("start", "end", "new_start", "new_end")

# Reason code of the quarantine -> what it means.
REASONS = {
    "no_name": "the answer does not give the original name, and no other way led to a chosen one",
    "already_new": "the answer already gives the new name",
    "asks_new": "the prompt itself gives the new name, which the model then denies",
    "mixed_name": "the answer to choose still gives the original name, in any form, or maker",
    "claims_other": "the answer to choose claims another name or maker",
    "nameless": "the answer to choose does not give the new name",
    "no_maker": "the answer to choose does not give the maker that was asked for",
    "remnant": "the answer to choose holds a placeholder",
    "third_party": "the prompt or the answer tells of the name as of somebody else",
    "generation_failed": "the model did not answer",
    "refused": "the server refuses to answer",
    "truncated": "the answer was cut off at generation.max_new_tokens, before a sentence ended",
    "empty_prompt": "the question is missing or blank",
    "empty_completion": "an answer is missing or blank",
    "identical": "chosen and rejected are the same",
    "duplicate": "the same pair came before",
    "doubled": "the rewritten answer gives a part of the new name twice",
    "too_long": "prompt and answer exceed pairs.max_length, or the prompt what the model reads",
    "difference_cut": "chosen and rejected differ only beyond pairs.max_length",
    "prompt_mismatch": "chosen and rejected do not answer one prompt that ends with the user",
    "control_token": "the text holds a control token of the model",
    "template_error": "the chat template refuses the messages",
    "bad_row": "the row cannot be read",
    "unknown_split": "the row names a split that is neither train nor held out",
}

# Reason code -> what to do where it is the commonest.
_REMEDIES = {
    "no_name": "Set identity.original_name to the name that the model gives itself, add its other "
    "spellings to identity.aliases, open all of pairs.ways, or take a source that gives answers.",
    "already_new": "Choose another identity.new_name.",
    "third_party": "Add prompts that ask the model about itself.",
    "generation_failed": "Read the log of the generation, and run again.",
    "truncated": "Raise generation.max_new_tokens.",
    "too_long": "Raise pairs.max_length, or leave out prompts longer than the model reads.",
    "difference_cut": "Raise pairs.max_length.",
}


class ModelOrigin(Record):
    """What a model is, told to others: a folder by its last part, no path of this machine."""

    name: str
    revision: str | None
    weights_digest: str
    template_digest: str
    kind: Literal["starter", "hub", "local"]
    gguf: GgufOrigin | None = None

    @classmethod
    def of(cls, ref: ModelRef) -> "ModelOrigin":
        """Say what may be told of a model."""
        # Nothing else is called that: a folder has its path, and a model from a file its suffix.
        kind = "starter" if ref.name == "starter" else "hub" if ref.revision else "local"
        name = ref.name if ref.revision else Path(ref.name).name
        return cls.model_validate({**ref.model_dump(), "name": name, "kind": kind})


class Lineage(Record):
    """What pairs were made from; settings are null where nothing was made by them."""

    model: ModelOrigin
    prompts: Origin  # its digest is that of what was made of it
    identity: dict[str, JsonValue] | None = None
    generation: dict[str, JsonValue] | None = None  # without where a server stands
    pairs: dict[str, JsonValue] | None = None


class Metadata(Record):
    """What every file of pairs says of itself."""

    ways: list[str]  # those of PairsConfig, or "given" for preferences that already existed
    max_length: int  # tokens of a prompt with an answer, at most
    identity: dict[str, JsonValue] | None  # null where no identity is at stake
    model: ModelOrigin  # its tokenizer counted
    format: Literal["chat template", "plain"]
    default_system: DefaultSystem
    source: str | None = None  # digest of a preference data set; null for answers
    lineage: Lineage | None = None  # null until the pairs are saved as a dataset


def describe_pairs(
    ref: ModelRef,
    tokenizer: "PreTrainedTokenizerBase",
    config: PairsConfig,
    spec: IdentitySpec | None = None,
) -> Metadata:
    """Describe pairs in the making; no spec: no identity is at stake."""
    return Metadata(
        ways=list(config.ways or WAYS) if spec else ["given"],
        max_length=config.max_length,
        identity=spec.config.model_dump(mode="json") if spec else None,
        model=ModelOrigin.of(ref),
        format="chat template" if tokenizer.chat_template else "plain",
        default_system=describe_default_system(tokenizer, spec),
    )


def schemas(metadata: Metadata) -> tuple[pa.Schema, pa.Schema]:
    """Return the schemas of pairs and of their quarantine, with metadata under METADATA_KEY."""
    types = {
        **dict.fromkeys(("prompt", "chosen", "rejected"), messages_type()),
        "source_row": pa.int64(),
        "spans": pa.list_(pa.struct([(end, pa.int32()) for end in SPAN_ENDS])),
        **dict.fromkeys(("turns", "prompt_tokens", "chosen_tokens", "rejected_tokens"), pa.int32()),
        "flags": pa.list_(pa.string()),
    }
    pairs = pa.schema(dict.fromkeys(COLUMNS, pa.string()) | types)
    refused = QUARANTINE.insert(0, pa.field("id", pa.string()))
    encoded = {METADATA_KEY: canonical(metadata.model_dump(mode="json"))}
    return pairs.with_metadata(encoded), refused.with_metadata(encoded)


def explain_reasons(reasons: dict[str, int], quarantine: Path) -> str:
    """List reasons with counts, meanings and the first rows of the source, and the remedy.

    The remedy is that of the commonest.
    """
    if not reasons:
        return "nothing. Add prompts."
    rows: dict[str, set[int]] = {code: set() for code in reasons}
    for row in read_rows(quarantine, ("reason", "source_row")):
        rows[row["reason"]].add(row["source_row"])
    listed = ", ".join(
        f"{code} {n} ({REASONS[code]}; {name_rows(rows[code])})" for code, n in reasons.items()
    )
    commonest = max(reasons, key=lambda code: reasons[code])
    return f"{listed}. {_REMEDIES.get(commonest, 'Look at these rows and repair their source.')}"
