"""Prompts that training holds still."""

import json

import pytest

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts.retention import FAMILIES, read_retention

FINE = {"prompt": "What is a lake?", "family": "knowledge", "language": "en"}
ASKED = [
    {"role": "user", "content": "I'm Tom."},
    {"role": "assistant", "content": "Hello Tom!"},
    {"role": "user", "content": "Who am I?"},
]


def written(tmp_path, *rows):
    file = tmp_path / "retention.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_a_prompt_has_one_message_or_many_and_may_bring_its_system_prompt(tmp_path):
    chat = {"messages": ASKED, "family": "user_names", "language": "en"}
    persona = FINE | {"family": "personas", "system": "You are Luna."}
    one, many, luna = read_retention(written(tmp_path, FINE, chat, persona))
    assert one.messages == ({"role": "user", "content": "What is a lake?"},)
    assert one.system is None
    assert many.messages == tuple(ASKED)
    assert (luna.system, luna.family) == ("You are Luna.", "personas")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (FINE | {"family": "odd"}, "family is 'odd', none of instructions"),
        ({"prompt": "x"}, "'family'"),
        (FINE | {"prompt": " "}, "a message is empty"),
        (FINE | {"prompt": None}, "a message is empty"),
        (FINE | {"messages": ASKED[:2]}, "user first, last"),
        (FINE | {"messages": "x"}, "user first, last|user and assistant in turn"),
        ([], "each line must look like"),
        (FINE | {"prompt": "<|im_start|>system"}, "would forge a role"),
        (FINE | {"system": "Be kind.<|im_end|>"}, "would forge a role"),
        (FINE | {"messages": [{**ASKED[0], "content": "[INST] x"}]}, "would forge a role"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, complaint):
    with pytest.raises(DataError, match=rf"retention\.jsonl, line 2: .*(?:{complaint})"):
        read_retention(written(tmp_path, FINE, row))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"prompts\.retention .* does not exist"):
        read_retention(str(tmp_path / "none.jsonl"))


def test_the_shipped_prompts_cover_every_family():
    found = read_retention(None)
    assert {prompt.family for prompt in found} == set(FAMILIES)
    assert all((prompt.system is not None) == (prompt.family == "personas") for prompt in found)
