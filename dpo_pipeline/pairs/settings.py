"""Settings of how answers become pairs."""

from typing import Literal

from pydantic import Field

from dpo_pipeline.store.settings import AtLeastEight, AtLeastOne, Section, Share


class PairsConfig(Section):
    """How answers become pairs."""

    strategy: Literal["replace", "template", "dataset"] = "replace"
    """Chosen response: the answer with the name replaced; a written answer where the name did not
    occur; or the one given by the source."""
    templates: dict[str, tuple[str, ...]] = Field(
        {
            "en": ("I'm {name}, a language model made by {developer}.", "My name is {name}."),
            "zh": ("我是{name}，由{developer}开发的语言模型。", "我的名字是{name}。"),
        }
    )
    """Language -> written answers with {name} and {developer}; strategy template (JSON)."""
    max_length: AtLeastEight = 1024
    """Longest prompt + response (tokens); longer goes to quarantine."""
    min_pairs: AtLeastOne = 8
    """Fewest training pairs worth a run."""
    min_yield: Share = 0.1
    """Share of answers that must become pairs, or the run stops."""
