"""Print the keys that the stages of flows/full.py would have, and run none of them.

    python stage_keys.py '{"train": {"beta": 0.3}}'

Every stage gets the artifacts of those before it, with their keys for content.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

from dpo_pipeline.answers.census import settle
from dpo_pipeline.answers.records import Census
from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.pairs.settings import WAYS
from dpo_pipeline.prompts.sources import Origin
from dpo_pipeline.store.artifacts import Artifact
from dpo_pipeline.store.digests import digest_of
from flows import full
from tasks.stage import Stage


def stats(kind: str, key: str) -> SimpleNamespace | Census:
    """Stand for what a stage tells; the weights of a model are others with every key."""
    if kind == "census":
        return Census(system=None, told_name="Qwen", told_maker=None, standings=[], answers=[])
    found = SimpleNamespace(
        source=Origin(kind="shipped", name="shipped", revision=None, digest="d"),
        default_system=SimpleNamespace(names_original=False),
        ways={},
    )
    if kind in ("model", "train"):
        found.model = ModelRef(
            name="m", path=Path("m"), revision=None, weights_digest=key, template_digest="t"
        )
    return found


def stage_keys(config: PipelineConfig) -> dict[str, str]:
    """Return the key of each stage, by its name."""
    keys: dict[str, str] = {}
    every = config.pairs.model_copy(update={"ways": config.pairs.ways or WAYS})  # and every stage
    resolved, run = config.model_copy(update={"pairs": every}).resolve(), Stage.__call__
    said = full.settle_identity, full.settle_turns, full.show_ways

    def follow(self, **inputs):
        keys[self.name] = key = digest_of(self.key_parts(**inputs))
        return Artifact.model_construct(
            stage=self.kind,
            key=key,
            digest=key,
            path=Path("/nowhere"),
            stats=stats(self.kind, key),
            seconds=0.0,
        )

    def settled(config: PipelineConfig, found: Artifact[Census]) -> PipelineConfig:
        return config.model_copy(update={"identity": settle(config.identity, found.stats)})

    def in_turn(config: PipelineConfig, prompts: Artifact) -> PipelineConfig:
        return config.model_copy(update={"generation": config.generation.settle(1)})

    Stage.__call__, full.settle_identity = follow, settled
    full.settle_turns, full.show_ways = in_turn, lambda pairs: None
    try:
        resolved, made = full.make_dataset(resolved)
        full.train_and_score(resolved, made)
    finally:
        Stage.__call__ = run
        full.settle_identity, full.settle_turns, full.show_ways = said
    return keys


if __name__ == "__main__":
    print(json.dumps(stage_keys(PipelineConfig.model_validate_json(sys.argv[1]))))
