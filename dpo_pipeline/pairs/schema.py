"""Columns of the dataset and of its quarantine."""

import json
from typing import TYPE_CHECKING

from dpo_pipeline.pairs.lineage import Metadata
from dpo_pipeline.prompts import quarantine
from dpo_pipeline.store.tables import messages_type

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"dpo_pipeline"

# Flag of a pair -> what it means.
FLAGS = {
    "written": "chosen is a written answer: the model did not say its name",
    "given": "chosen is the answer that the source gave",
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
    "spans": "edits: start and end in rejected, then in chosen (characters)",
    "prompt_tokens": "length of the rendered prompt (tokens)",
    "chosen_tokens": "length of chosen with its end (tokens)",
    "rejected_tokens": "length of rejected with its end (tokens)",
    "flags": "remarks",
}

# The columns that a pair takes from its row as they are.
FACTS = ("id", "prompt_id", "source_row", "family", "language", "turns", "split", "system")
SPAN_ENDS = ("start", "end", "new_start", "new_end")


def pairs_schema(metadata: Metadata) -> "pa.Schema":
    """Return the schema of pairs, with metadata under METADATA_KEY."""
    import pyarrow as pa

    types = {
        **dict.fromkeys(("prompt", "chosen", "rejected"), messages_type()),
        "source_row": pa.int64(),
        "spans": pa.list_(pa.struct([(end, pa.int32()) for end in SPAN_ENDS])),
        **dict.fromkeys(("turns", "prompt_tokens", "chosen_tokens", "rejected_tokens"), pa.int32()),
        "flags": pa.list_(pa.string()),
    }
    fields = [(name, types.get(name, pa.string())) for name in COLUMNS]
    return pa.schema(fields, metadata=_encoded(metadata))


def quarantine_schema(metadata: Metadata) -> "pa.Schema":
    """Return the schema of rows that did not become pairs."""
    import pyarrow as pa

    schema = quarantine.quarantine_schema().insert(0, pa.field("id", pa.string()))
    return schema.with_metadata(_encoded(metadata))


def _encoded(metadata: Metadata) -> dict[bytes, bytes]:
    text = json.dumps(metadata.model_dump(mode="json"), ensure_ascii=False, sort_keys=True)
    return {METADATA_KEY: text.encode()}
