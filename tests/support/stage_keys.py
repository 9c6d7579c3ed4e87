"""Print the keys that the stages of flows/full.py would have, and run none of them.

    python stage_keys.py '{"train": {"beta": 0.3}}'

Every stage gets the artifacts of those before it, with their keys for content.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.prompts.sources import Origin
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.digests import digest_of
from flows.full import make_dataset, train_and_score
from tasks.stage import Stage

STATS = SimpleNamespace(
    model=ModelRef(
        name="starter", path=Path("model"), revision=None, weights_digest="w", template_digest="t"
    ),
    source=Origin(kind="shipped", name="shipped", revision=None, digest="d"),
    default_system=SimpleNamespace(names_original=False),
)


def stage_keys(config: PipelineConfig) -> dict[str, str]:
    """Return the key of each stage, by its name."""
    keys: dict[str, str] = {}
    resolved, run = config.resolve(), Stage.__call__

    def follow(self, **inputs):
        keys[self.name] = key = digest_of(self.key_parts(**inputs))
        return Artifact.model_construct(
            stage=self.kind, key=key, digest=key, path=Path("/nowhere"), stats=STATS, seconds=0.0
        )

    Stage.__call__ = follow
    try:
        train_and_score(resolved, resolved.train, make_dataset(resolved))
    finally:
        Stage.__call__ = run
    return keys


if __name__ == "__main__":
    print(json.dumps(stage_keys(PipelineConfig.model_validate_json(sys.argv[1]))))
