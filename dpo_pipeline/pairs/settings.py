"""Settings of how answers become pairs."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from dpo_pipeline.store.settings import AtLeastEight, AtLeastOne, Section, Share

Way = Literal["replaced", "transferred", "instructed", "filled"]
WAYS: tuple[Way, ...] = get_args(Way)


class PairsConfig(Section):
    """How answers become pairs."""

    ways: Annotated[tuple[Way, ...], Field(min_length=1)] | None = None
    """Ways to a chosen answer, the first that holds: the model's own answer with the name replaced;
    that of another system prompt; one given when told the new identity; the one that comes with
    the prompt (JSON list); null: from the model (starter: the first two, others: all)."""
    max_length: AtLeastEight = 1024
    """Longest prompt + response (tokens); longer goes to quarantine."""
    min_pairs: AtLeastOne = 8
    """Fewest training pairs worth a run."""
    min_yield: Share = 0.1
    """Share of answers that must become pairs, or the run stops."""

    def resolve(self, model: str) -> "PairsConfig":
        """Fill in what is left to the reference model, given by its name."""
        # Words that are not its own teach a toy to talk in strange ways.
        ways = self.ways or (WAYS[:2] if model == "starter" else WAYS)
        return self.model_copy(update={"ways": ways})
