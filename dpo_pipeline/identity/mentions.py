"""Mentions: of the original name (a leak), of the new name, of a maker, of somebody else."""

from dpo_pipeline.identity.addressing import addresses_model, vocative
from dpo_pipeline.identity.names import ANY_GAP, alone, any_of, doubled, literal
from dpo_pipeline.identity.rewriting import Rewrite, Rewriter
from dpo_pipeline.identity.settings import IdentityConfig


class IdentitySpec:
    """What is known about the identity before and after, compiled."""

    def __init__(self, config: IdentityConfig) -> None:
        self.config = config
        self._rewriter = Rewriter(config)
        self._mention = any_of(map(literal, config.names))
        self._vocative = vocative(self._mention.pattern)
        news = sorted(set(config.names.values()))
        self._new = any_of(alone(new, ANY_GAP) for new in news)
        self._doubled = any_of(p for new in news for p in doubled(new, config.original_name))
        after = config.makers if config.new_developer is None else (config.new_developer,)
        self._makers, self._new_makers = (any_of(map(alone, m)) for m in (config.makers, after))

    def rewrite(self, text: str) -> Rewrite:
        """Replace the original name, its aliases and, if it changes, the developer."""
        return self._rewriter.rewrite(text)

    def count_original(self, text: str) -> int:
        """Count mentions of the original name or an alias: after training, each is a leak.

        Those inside the new name, a longer or protected name, code or an address do not count.
        """
        counts = self._rewriter.walk(text).counts
        return sum(n for rule, n in counts.items() if rule == "name" or rule.startswith("alias:"))

    def count_new(self, text: str) -> int:
        """Count mentions of the new name, longer names not included."""
        return sum(1 for _ in self._new.finditer(text))

    def is_doubled(self, text: str) -> bool:
        """Tell whether the new name comes with a part of it said twice (Deep Deep Qwen)."""
        return self._doubled.search(text) is not None

    def names_developer(self, text: str, after: bool = False) -> bool:
        """Tell whether the text names the developer before, or the one after."""
        return (self._new_makers if after else self._makers).search(text) is not None

    def is_third_party(self, prompt: str) -> bool:
        """Tell whether a prompt asks about the model by name, and not about "you".

        "Who makes Qwen?" does; "Are you Qwen?", "Is this Qwen?" and "Qwen, who made this?" do not.
        """
        rest = self._vocative.sub(" ", prompt)
        return self._mention.search(rest) is not None and not addresses_model(prompt)
