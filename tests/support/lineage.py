"""Where the pairs of tests come from."""

from dpo_pipeline.pairs.schema import Lineage, ModelOrigin
from dpo_pipeline.prompts.sources import Origin

LINEAGE = Lineage(
    model=ModelOrigin(
        name="tiny", revision=None, weights_digest="w", template_digest="t", kind="local"
    ),
    prompts=Origin(kind="file", name="rows.jsonl", revision=None, digest="d"),
)
