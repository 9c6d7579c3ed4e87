"""Placeholders for the name and the maker, filled with the identity before or after."""

import re

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.settings import IdentityConfig

_FILLED = re.compile(
    r"\{\{\s*(name|author|developer)\s*\}\}|\{(name|author|developer)\}"
    r"|(?-i:<(NAME|AUTHOR|DEVELOPER)>|\[(NAME|AUTHOR|DEVELOPER)\])",
    re.IGNORECASE,
)
_UNFILLED = re.compile(r"\{\{.*?\}\}", re.DOTALL)


def fill(text: str, identity: IdentityConfig, after: bool = False) -> str:
    """Fill placeholders: {{name}}, {name}, <NAME>, [NAME]; author and developer likewise.

    What the reference model reads is filled with the identity before, since it answers as
    that one: asked "Are you Deep Qwen?" it would say no, and rewriting makes nonsense of a
    denial. A chosen answer that the source gives is filled with the identity after.

    Raises:
        DataError: A placeholder is unknown, or the developer it asks for is not configured.
    """
    name = identity.new_name if after else identity.original_name
    maker = identity.maker(after)

    def value(match: re.Match[str]) -> str:
        if next(filter(None, match.groups())).lower() == "name":
            return name
        if maker is None:
            raise DataError(f"{match.group()} asks for the developer; set identity.developer")
        return maker

    filled = _FILLED.sub(value, text)
    if unknown := _UNFILLED.search(filled):
        raise DataError(
            f"unknown placeholder {unknown.group()[:60]!r}; known are name, author, developer"
        )
    return filled
