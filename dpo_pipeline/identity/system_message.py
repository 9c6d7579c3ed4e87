"""The identity inside a chat template: what many insert where no system message is sent."""

import json
from pathlib import Path
from typing import Any

from dpo_pipeline.errors import ModelError
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.chat_templates import default_system
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import describe_model


def describe_default_system(tokenizer: Any, spec: IdentitySpec | None) -> dict[str, Any]:
    """Say what system message the chat template inserts by itself, and if it names the model.

    Returns:
        inserted (bool), text (None if nothing), names_original (bool).
    """
    text = default_system(tokenizer)
    return {
        "inserted": bool(text),
        "text": text,
        "names_original": bool(spec and text and spec.count_original(text)),
    }


def patch_template(folder: Path, identity: IdentityConfig) -> dict[str, Any]:
    """Give the default system message of a model folder's chat template the new identity.

    A policy that says the new name still reads "You are Qwen" before every answer, unless its
    template goes with it. Nothing else in the template changes.

    Returns:
        changed (bool); before and after: the system message that the template inserts.
    Raises:
        ModelError: The template computes its default message, so it cannot be replaced in it.
    """
    spec = IdentitySpec(identity)
    before = _default_system(folder, spec)
    text = before["text"]
    if not before["names_original"]:
        return {"changed": False, "before": text, "after": text}
    new = spec.rewrite(text).text
    # Inside a string of the template a line break is written as an escape.
    forms = {
        text.strip(): new.strip(),
        text.strip().replace("\n", "\\n"): new.strip().replace("\n", "\\n"),
    }
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        file.write_text(_replace(file.read_text("utf-8"), forms), encoding="utf-8")
    else:
        values = json.loads(settings.read_text("utf-8"))
        values["chat_template"] = _replace(values["chat_template"], forms)
        settings.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
    after = _default_system(folder, spec)
    if after["text"] != new:
        raise ModelError(
            f"{folder}: the chat template inserts {text!r}, but does not hold it as it stands; "
            "edit chat_template.jinja by hand"
        )
    return {"changed": True, "before": text, "after": new}


def _default_system(folder: Path, spec: IdentitySpec) -> dict[str, Any]:
    return describe_default_system(load_tokenizer(describe_model(folder, folder.name)), spec)


def _replace(template: str, forms: dict[str, str]) -> str:
    for old, new in forms.items():
        template = template.replace(old, new)
    return template
