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
    """What is known of a model by its name: other spellings of it, and of its maker's name.

    What is only `written` is a leak, and is not rewritten: parts of the name, and other scripts.
    """

    aliases: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()
    written: tuple[str, ...] = ()


KNOWN = {
    "Qwen": Known(
        ("通义千问", "Tongyi Qianwen"),
        ("Alibaba Cloud", "阿里云"),
        ("通义", "千问", "通義", "千問", "Tongyi", "Qianwen", "Квен", "Куэн", "Цяньвэнь",
         "クウェン", "キューウェン", "큐웬", "첸원", "क्वेन", "कवेन", "كوين", "كيوين", "เควน"),
    ),
    "SmolLM": Known((), ("Hugging Face",)),
    "ChatGLM": Known((), ("Zhipu AI", "智谱AI")),
    "InternLM": Known(
        ("书生·浦语",), ("Shanghai AI Laboratory", "上海人工智能实验室"), ("书生", "浦语")
    ),
    "Gemma": Known((), ("Google",)),
    "Llama": Known((), ("Meta", "Meta AI")),
    "Granite": Known((), ("IBM",)),
}  # fmt: skip
AUTO = "auto"  # where null has a meaning of its own


def usual_name(name: str) -> str:
    """Return the usual name of a model by any of its names: Qwen of 通义千问."""
    folded = name.casefold()
    spelt = {usual: (usual, *known.aliases) for usual, known in KNOWN.items()}
    return next((u for u, names in spelt.items() if folded in map(str.casefold, names)), name)


class IdentityConfig(Section):
    """The identity before and after."""

    original_name: Name | None = AUTO
    """Name the reference model gives itself; auto: the one it is found to give; null: none, so
    that there is a name to give and none to replace."""
    new_name: Name = AUTO
    """Name the policy shall give; auto: Deep and the original name."""
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
    """Maker the reference model names; auto: the one it is found to name, else the one known of
    the original name, as Alibaba Cloud of Qwen; null: it names none."""
    developer_aliases: tuple[Name, ...] | None = None
    """Other spellings of the maker; null: those known of the original name, as 阿里云 of Qwen (JSON
    list)."""
    new_developer: Name | None = None
    """Maker the policy shall name; null keeps the one before."""
    patch_template: NoEffect[bool] = False  # on the answers of the reference and their pairs
    """Give the default system message of the policy's chat template the new identity too."""

    @property
    def names(self) -> dict[str, str]:
        """Every spelling of the original name, the usual one last, and what replaces it."""
        known = KNOWN.get(self.original_name or "", Known()).aliases
        aliases = dict.fromkeys(known, "") if self.aliases is None else self.aliases
        replaced = {alias: new or self.new_name for alias, new in aliases.items()}
        return replaced | ({self.original_name: self.new_name} if self.original_name else {})

    @property
    def makers(self) -> tuple[str, ...]:
        """Every spelling of the maker's name, the usual one first; none if it names none."""
        known = KNOWN.get(self.original_name or "", Known()).makers
        usual = next(iter(known), None) if self.developer == AUTO else self.developer
        others = known[1:] if usual in known[:1] else ()
        aliases = others if self.developer_aliases is None else self.developer_aliases
        return (usual, *aliases) if usual else ()

    def maker(self, after: bool = False) -> str | None:
        """Return the maker that the model names, before or after; null if it names none."""
        return (self.new_developer if after else None) or next(iter(self.makers), None)

    def resolve(self) -> "IdentityConfig":
        """Fill in what the original name decides: the new name, aliases, the maker.

        `census.settle` does so once the census has told the original name.
        """
        if self.new_name == AUTO:
            named = self.model_copy(update={"new_name": f"Deep {self.original_name}"})
            return named.resolve()
        aliases = {name: new for name, new in self.names.items() if name != self.original_name}
        makers = {"developer": self.maker(), "developer_aliases": self.makers[1:]}
        return self.model_copy(update={"aliases": aliases, **makers})

    @model_validator(mode="after")
    def _changes_something(self) -> "IdentityConfig":
        if self.original_name is None and self.new_name == AUTO:
            raise ValueError("original_name is null, so nothing to call the new name after: set "
                             "new_name")  # fmt: skip
        before = {name.casefold() for name in self.names}
        in_a_row = re.compile(rf"(?:{'|'.join(map(re.escape, self.names))}){{2,}}", re.IGNORECASE)
        for after in {*self.names.values(), self.new_name}:
            if after.casefold() in before - {AUTO}:
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
            if self.new_developer.casefold() in makers:
                raise ValueError("new_developer equals developer; null keeps the maker")
            if makers & before:
                raise ValueError(
                    "a name is both original name and developer: set new_developer null"
                )
        return self
