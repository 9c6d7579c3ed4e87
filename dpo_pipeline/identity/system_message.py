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

    def inserted() -> DefaultSystem:
        return describe_default_system(load_tokenizer(describe_model(folder, folder.name)), spec)

    before = inserted()
    if before.text is None or not before.names_original:
        return PatchedTemplate(changed=False, before=before.text, after=before.text)
    new = spec.rewrite(before.text).text
    # Inside a string of the template a line break is written as an escape.
    old_line, new_line = before.text.strip(), new.strip()
    forms = {old_line: new_line, old_line.replace("\n", "\\n"): new_line.replace("\n", "\\n")}
    file, values = folder / "chat_template.jinja", {}
    if not file.is_file():
        file = folder / "tokenizer_config.json"
        values = json.loads(file.read_text("utf-8"))
    template = values["chat_template"] if values else file.read_text("utf-8")
    for old_form, new_form in forms.items():
        template = template.replace(old_form, new_form)
    if values:
        values["chat_template"] = template
        template = json.dumps(values, ensure_ascii=False, indent=2)
    file.write_text(template, encoding="utf-8")
    if inserted().text != new:
        raise ModelError(
            f"{folder}: the chat template inserts {before.text!r}, but does not hold it as it "
            "stands; edit chat_template.jinja by hand"
        )
    return PatchedTemplate(changed=True, before=before.text, after=new)
