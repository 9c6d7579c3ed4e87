"""The identity inside a chat template: what many insert where no system message is sent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_pipeline.errors import ModelError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.chat_templates import default_system
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.store.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DefaultSystem(Record):
    """What system message a chat template inserts by itself, and if it names the model."""

    inserted: bool
    text: str | None
    names_original: bool


class PatchedTemplate(Record):
    """The system message that a template inserts, before and after it was patched."""

    changed: bool
    before: str | None
    after: str | None


def describe_default_system(
    tokenizer: "PreTrainedTokenizerBase", spec: IdentitySpec | None
) -> DefaultSystem:
    """Say what system message the chat template inserts by itself, and if it names the model."""
    text = default_system(tokenizer)
    named = bool(spec and text and spec.count_original(text))
    return DefaultSystem(inserted=bool(text), text=text, names_original=named)


def patch_template(folder: Path, identity: IdentityConfig) -> PatchedTemplate:
    """Give the default system message of a model folder's chat template the new identity.

    A policy that says the new name still reads "You are Qwen" before every answer, unless its
    template goes with it. Nothing else in the template changes.

    Raises:
        ModelError: The template computes its default message, so it cannot be replaced in it.
    """
    spec = IdentitySpec(identity)
    before = _default_system(folder, spec)
    if before.text is None or not before.names_original:
        return PatchedTemplate(changed=False, before=before.text, after=before.text)
    new = spec.rewrite(before.text).text
    # Inside a string of the template a line break is written as an escape.
    old_line, new_line = before.text.strip(), new.strip()
    forms = {old_line: new_line, old_line.replace("\n", "\\n"): new_line.replace("\n", "\\n")}
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        file.write_text(_replace(file.read_text("utf-8"), forms), encoding="utf-8")
    else:
        values = json.loads(settings.read_text("utf-8"))
        values["chat_template"] = _replace(values["chat_template"], forms)
        settings.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")
    after = _default_system(folder, spec)
    if after.text != new:
        raise ModelError(
            f"{folder}: the chat template inserts {before.text!r}, but does not hold it as it "
            "stands; edit chat_template.jinja by hand"
        )
    return PatchedTemplate(changed=True, before=before.text, after=new)


def _default_system(folder: Path, spec: IdentitySpec) -> DefaultSystem:
    return describe_default_system(load_tokenizer(describe_model(folder, folder.name)), spec)


def _replace(template: str, forms: dict[str, str]) -> str:
    for old, new in forms.items():
        template = template.replace(old, new)
    return template
