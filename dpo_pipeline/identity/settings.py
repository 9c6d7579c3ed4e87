"""Settings of the identity before and after."""

import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, model_validator

from dpo_pipeline.store.settings import NoEffect, Section


def _plain_name(name: str) -> str:
    """Refuse what no name holds and what would confuse code spans, placeholders or templates."""
    if not name or name != " ".join(name.split()):
        raise ValueError(f"{name!r} is blank, or has stray spaces or line breaks")
    if found := sorted(set(name) & set("`{}<>|[]/\\@")) or [c for c in name if not c.isprintable()]:
        raise ValueError(f"{name!r} holds {found[0]!r}, which no name may")
    return name


Name = Annotated[str, AfterValidator(_plain_name)]
NewName = Annotated[str, AfterValidator(lambda name: name and _plain_name(name))]


class Known(NamedTuple):
    """What is known of a model by its name: other spellings of it, and of its maker's name."""

    aliases: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()


KNOWN = {"Qwen": Known(("通义千问", "Tongyi Qianwen"), ("Alibaba Cloud", "阿里云"))}
AUTO = "auto"  # where null has a meaning of its own


class IdentityConfig(Section):
    """The identity before and after."""

    original_name: Name = "Qwen"
    """Name the reference model gives itself."""
    new_name: Name = "Deep Qwen"
    """Name the policy shall give."""
    aliases: dict[Name, NewName] | None = None
    """Other spellings of the original name, each with its replacement, or an empty one for the new
    name; null: those known of the original name, as 通义千问 of Qwen (JSON)."""
    any_case: bool = True
    """Also rewrite other cases, keeping all-lower and all-upper ones (qwen -> deep qwen); false for
    a name that is a common word, like Llama."""
    protected: tuple[Name, ...] = ()
    """Longer names that contain the original name and must stay (JSON list); Qwen2.5, QwenLM,
    Qwen-VL and the like stay by themselves."""
    developer: Name | None = AUTO
    """Maker the reference model names; auto: the one known of the original name, as Alibaba Cloud
    of Qwen; null: it names none."""
    developer_aliases: tuple[Name, ...] | None = None
    """Other spellings of the maker; null: those known of the original name, as 阿里云 of Qwen (JSON
    list)."""
    new_developer: Name | None = None
    """Maker the policy shall name instead; null keeps the maker."""
    patch_template: NoEffect[bool] = False  # on the answers of the reference and their pairs
    """Give the default system message of the policy's chat template the new identity too."""

    @property
    def names(self) -> dict[str, str]:
        """Every spelling of the original name, the usual one last, and what replaces it."""
        known = KNOWN.get(self.original_name, Known()).aliases
        aliases = dict.fromkeys(known, "") if self.aliases is None else self.aliases
        replaced = {alias: new or self.new_name for alias, new in aliases.items()}
        return replaced | {self.original_name: self.new_name}

    @property
    def makers(self) -> tuple[str, ...]:
        """Every spelling of the maker's name, the usual one first; none if it names none."""
        known = KNOWN.get(self.original_name, Known()).makers
        usual = next(iter(known), None) if self.developer == AUTO else self.developer
        aliases = known[1:] if self.developer_aliases is None else self.developer_aliases
        return (usual, *aliases) if usual else ()

    def maker(self, after: bool = False) -> str | None:
        """Return the maker that the model names, before or after; null if it names none."""
        return (self.new_developer if after else None) or next(iter(self.makers), None)

    def resolve(self) -> "IdentityConfig":
        """Fill in what is known of the original name, and the new name where one is left empty."""
        aliases = {name: new for name, new in self.names.items() if name != self.original_name}
        makers = {"developer": self.maker(), "developer_aliases": self.makers[1:]}
        return self.model_copy(update={"aliases": aliases, **makers})

    @model_validator(mode="after")
    def _changes_something(self) -> "IdentityConfig":
        before = {name.casefold() for name in self.names}
        in_a_row = re.compile(rf"(?:{'|'.join(map(re.escape, self.names))}){{2,}}", re.IGNORECASE)
        for after in self.names.values():
            if after.casefold() in before:
                raise ValueError(
                    f"the new name {after!r} is also an original name (case aside): rewriting "
                    "would change nothing, and there would be nothing to learn"
                )
            if in_a_row.fullmatch(after):
                raise ValueError(
                    f"the new name {after!r} is only original names in a row: rewriting would "
                    "never end; choose one that adds something of its own"
                )
        for name in self.protected:
            if name.casefold() in before:
                raise ValueError(f"protected name {name!r} is the original name or an alias")
        if self.new_developer is not None:
            makers = {name.casefold() for name in self.makers}
            if not makers:
                raise ValueError("new_developer needs developer: the maker to be replaced")
            if self.new_developer.casefold() in makers:
                raise ValueError("new_developer equals developer; null keeps the maker")
            if makers & before:
                raise ValueError(
                    "a name is both original name and developer: set new_developer null"
                )
        return self
