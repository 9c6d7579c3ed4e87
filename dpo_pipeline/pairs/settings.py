"""Settings of how answers become pairs."""

from typing import Literal

from pydantic import Field

from dpo_pipeline.store.settings import Section, Share


class PairsConfig(Section):
    """How answers become pairs."""

    strategy: Literal["replace", "template", "dataset"] = Field(
        "replace",
        description="Chosen response: the answer with the name replaced; a written answer where "
        "the name did not occur; or the one given by the source.",
    )
    templates: dict[str, tuple[str, ...]] = Field(
        {
            "en": ("I'm {name}, a language model made by {developer}.", "My name is {name}."),
            "zh": ("我是{name}，由{developer}开发的语言模型。", "我的名字是{name}。"),
        },
        description="Language -> written answers with {name} and {developer}; strategy template "
        "(JSON).",
    )
    max_length: int = Field(
        1024, ge=8, description="Longest prompt + response (tokens); longer goes to quarantine."
    )
    min_pairs: int = Field(8, ge=1, description="Fewest training pairs worth a run.")
    min_yield: Share = Field(
        0.1, description="Share of answers that must become pairs, or the run stops."
    )
