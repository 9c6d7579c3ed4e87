"""Placeholders are filled with either identity."""

import pytest
from identities import QWEN, spec

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.placeholders import fill


def test_fills_placeholders_with_either_identity() -> None:
    text = "{{name}} {{ NAME }} {name} <NAME> [NAME], {{author}} {DEVELOPER} <AUTHOR> [DEVELOPER]"
    assert fill(text, QWEN.config) == ", ".join(
        (" ".join(["Qwen"] * 5), " ".join(["Alibaba Cloud"] * 4))
    )
    moved = spec(developer="Alibaba Cloud", new_developer="Acme")
    assert fill("{{name}} by {{author}}", moved.config, after=True) == "Deep Qwen by Acme"
    assert fill("{{name}} by {{author}}", moved.config) == "Qwen by Alibaba Cloud"
    assert fill("<name> [name] {x} <b>", QWEN.config) == "<name> [name] {x} <b>"


@pytest.mark.parametrize("text", ["{{foo}}", "a {{ user.name }}", "{{\n}}", "{{name}} {{ x }}"])
def test_refuses_unknown_placeholders(text: str) -> None:
    with pytest.raises(DataError, match="unknown placeholder"):
        fill(text, QWEN.config)


def test_refuses_a_developer_that_is_not_configured() -> None:
    with pytest.raises(DataError, match=r"identity\.developer"):
        fill("made by {{author}}", spec().config)
