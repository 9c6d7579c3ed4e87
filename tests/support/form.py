"""The form of a deployment, as its schema describes it."""

from typing import Any

Schema = dict[str, Any]


def unchanged(schema: Schema, part: Schema | None = None) -> Any:
    """Return what a form sends when nobody changed it: every default, explicitly."""
    part = schema if part is None else part
    if "default" in part:
        return part["default"]
    if "$ref" in part:
        _, definitions, name = part["$ref"].split("/")
        part = schema[definitions][name]
    return {name: unchanged(schema, field) for name, field in part["properties"].items()}
