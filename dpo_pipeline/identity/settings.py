"""Settings of the identity before and after."""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dpo_pipeline.store.settings import NO_EFFECT, Section


def _plain_name(name: str) -> str:
    """Refuse what no name holds and what would confuse code spans, placeholders or templates."""
    if not name or name != " ".join(name.split()):
        raise ValueError(f"{name!r} is blank, or has stray spaces or line breaks")
    if found := sorted(set(name) & set("`{}<>|[]/\\@")) or [c for c in name if not c.isprintable()]:
        raise ValueError(f"{name!r} holds {found[0]!r}, which no name may")
    return name


Name = Annotated[str, AfterValidator(_plain_name)]


class IdentityConfig(Section):
    """The identity before and after."""

    original_name: Name = Field("Qwen", description="Name the reference model gives itself.")
    new_name: Name = Field("Deep Qwen", description="Name the policy shall give.")
    aliases: dict[Name, Name] = Field(
        {"通义千问": "", "Tongyi Qianwen": ""},
        validate_default=True,
        description="Other spellings of the original name, each with its replacement; empty: the "
        "new name (JSON).",
    )
    any_case: bool = Field(
        True,
        description="Also rewrite other cases, keeping all-lower and all-upper ones (qwen -> deep "
        "qwen); false for a name that is a common word, like Llama.",
    )
    protected: tuple[Name, ...] = Field(
        (),
        description="Longer names that contain the original name and must stay (JSON list); "
        "Qwen2.5, QwenLM, Qwen-VL and the like stay by themselves.",
    )
    developer: Name | None = Field(
        "Alibaba Cloud", description="Maker the reference model names; null if it names none."
    )
    developer_aliases: tuple[Name, ...] = Field(
        ("阿里云",), description="Other spellings of the maker (JSON list)."
    )
    new_developer: Name | None = Field(
        None, description="Maker the policy shall name instead; null keeps the maker."
    )
    patch_template: bool = Field(
        False,
        description="Give the default system message of the policy's chat template the new "
        "identity too.",
        json_schema_extra=NO_EFFECT,  # on the answers of the reference and their pairs
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_are_of_qwen(cls, data: Any) -> Any:
        """Start another original name without Qwen's aliases and maker."""
        if isinstance(data, dict) and data.get("original_name", "Qwen") != "Qwen":
            return {"aliases": {}, "developer": None, "developer_aliases": (), **data}
        return data

    @field_validator("aliases", mode="before")
    @classmethod
    def _empty_is_the_new_name(cls, aliases: Any, info: ValidationInfo) -> Any:
        if isinstance(aliases, dict) and "new_name" in info.data:
            return {alias: new or info.data["new_name"] for alias, new in aliases.items()}
        return aliases

    @model_validator(mode="after")
    def _changes_something(self) -> "IdentityConfig":
        before = {name.casefold() for name in (self.original_name, *self.aliases)}
        for after in (self.new_name, *self.aliases.values()):
            if after.casefold() in before:
                raise ValueError(
                    f"the new name {after!r} is also an original name (case aside): rewriting "
                    "would change nothing, and there would be nothing to learn"
                )
        for name in self.protected:
            if name.casefold() in before:
                raise ValueError(f"protected name {name!r} is the original name or an alias")
        if self.new_developer is not None:
            makers = {name.casefold() for name in (self.developer or "", *self.developer_aliases)}
            if self.developer is None:
                raise ValueError("new_developer needs developer: the maker to be replaced")
            if self.new_developer.casefold() in makers:
                raise ValueError("new_developer equals developer; null keeps the maker")
            if makers & before:
                raise ValueError(
                    "a name is both original name and developer: set new_developer null"
                )
        return self
