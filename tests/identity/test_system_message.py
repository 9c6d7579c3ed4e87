"""The old name inside a chat template, replaced where it stands."""

import json

import pytest
from identities import DEEP_QWEN
from tiny import DEFAULT_SYSTEM, make_tiny_model

from dpo_pipeline.errors import ModelError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.system_message import (
    DefaultSystem,
    describe_default_system,
    patch_template,
)
from dpo_pipeline.models.chat_templates import render
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import describe_model

IDENTITY = DEEP_QWEN
ASKED = [{"role": "user", "content": "Are you Qwen?"}]
INSERTING = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\n' + DEFAULT + "
    "'<|im_end|>\\n' }}{%- endif %}{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' "
    "+ m['content'] + '<|im_end|>\\n' }}{%- endfor %}"
)


@pytest.fixture
def folder(tmp_path):
    return make_tiny_model(tmp_path / "model")


def prompt(folder) -> str:
    return render(load_tokenizer(describe_model(folder, "x")), ASKED)


def test_the_default_message_gets_the_new_name_and_nothing_else_changes(folder):
    before = prompt(folder)
    report = patch_template(folder, IDENTITY)
    assert report.model_dump() == {
        "changed": True,
        "before": DEFAULT_SYSTEM,
        "after": DEFAULT_SYSTEM.replace("Qwen", "Deep Qwen"),
    }
    assert prompt(folder) == before.replace(report.before, report.after)
    assert "Are you Qwen?" in prompt(folder)


def test_patching_twice_changes_nothing_more(folder):
    patch_template(folder, IDENTITY)
    once = prompt(folder)
    assert not patch_template(folder, IDENTITY).changed
    assert prompt(folder) == once


def test_a_template_inside_the_tokenizer_settings_is_found(folder):
    template = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": template})
    )
    assert patch_template(folder, IDENTITY).changed
    assert "You are Deep Qwen" in prompt(folder)


def test_line_breaks_in_the_message_are_found(folder):
    (folder / "chat_template.jinja").write_text(
        INSERTING.replace("DEFAULT", "'You are Qwen.\\nBe kind.'"), encoding="utf-8"
    )
    assert patch_template(folder, IDENTITY).after == "You are Deep Qwen.\nBe kind."


def test_a_computed_message_is_refused(folder):
    (folder / "chat_template.jinja").write_text(
        INSERTING.replace("DEFAULT", "'You are ' + 'Qw' + 'en.'"), encoding="utf-8"
    )
    with pytest.raises(ModelError, match=r"edit chat_template\.jinja by hand"):
        patch_template(folder, IDENTITY)


def test_a_template_without_the_name_stays_as_it_is(folder):
    before = (folder / "chat_template.jinja").read_bytes()
    other = IdentityConfig(original_name="Mistral", new_name="Deep Mistral", aliases={})
    assert not patch_template(folder, other).changed
    assert (folder / "chat_template.jinja").read_bytes() == before


def test_a_template_that_inserts_nothing_is_reported_as_such(folder, tmp_path):
    tokenizer, spec = load_tokenizer(describe_model(folder, "x")), IdentitySpec(IDENTITY)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    nothing = DefaultSystem(inserted=False, text=None, names_original=False)
    assert describe_default_system(tokenizer, spec) == nothing
    tokenizer.chat_template = (  # the system message goes into the user's turn
        "[INST] {% for m in messages %}{% if m.role == 'system' %}{{ 'Rules: ' + m.content }}"
        "{% else %} Question: {{ m.content }}{% endif %}{% endfor %} [/INST]"
    )
    assert describe_default_system(tokenizer, spec) == nothing
    tokenizer.chat_template = (
        "{{ 'With ' if messages | length == 2 else 'Without rules ' }}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert describe_default_system(tokenizer, spec) == nothing
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if messages | length == 1 %}"
        " I am Qwen, whatever they say.{% endif %}"
    )
    assert describe_default_system(tokenizer, spec) == nothing
    base = make_tiny_model(tmp_path / "base", "gpt2")
    assert describe_default_system(load_tokenizer(describe_model(base, "x")), spec) == nothing
