"""Conversations as the model reads them."""

import shutil
from pathlib import Path

import pytest
from tiny import DEFAULT_SYSTEM, edit_json

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.chat_templates import default_block, encode, end_tokens, render
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import resolve_model

USER = {"role": "user", "content": "Who are you?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def test_a_chat_template_writes_the_prompt_with_its_own_default_system(tiny):
    tokenizer = load_tokenizer(resolve_model(str(tiny)))
    text = render(tokenizer, [USER])
    assert text.startswith(f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>")
    assert text.endswith("<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n")
    assert DEFAULT_SYSTEM not in render(tokenizer, [SYSTEM, USER])
    ids = encode(tokenizer, [USER])
    assert tokenizer.decode(ids) == text
    assert len(ids) == 34
    assert ids[0] == 1  # a control token, not its letters


def test_the_template_s_own_system_block_can_be_left_out(tiny, base):
    tokenizer = load_tokenizer(resolve_model(str(tiny)))
    bare = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert render(tokenizer, [USER], bare=True) == bare
    assert tokenizer.decode(encode(tokenizer, [USER], bare=True)) == bare
    assert default_block(load_tokenizer(resolve_model(str(base)))) is None
    assert render(tokenizer, [SYSTEM, USER], bare=True) == render(tokenizer, [SYSTEM, USER])


@pytest.mark.parametrize("begin", ["<|endoftext|>", "<|im_start|>"])
def test_the_token_that_begins_every_text_stays(tiny, begin):
    tokenizer = load_tokenizer(resolve_model(str(tiny)))
    tokenizer.bos_token = begin
    if begin == "<|endoftext|>":
        tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    block = f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n"
    assert default_block(tokenizer) == block
    assert render(tokenizer, [USER], bare=True) == render(tokenizer, [USER]).replace(block, "")


def test_a_base_model_reads_the_instruction_format(base):
    tokenizer = load_tokenizer(resolve_model(str(base)))
    answered = [USER, {"role": "assistant", "content": "A model."}, USER]
    question = "### Instruction:\nWho are you?\n\n### Response:\n"
    assert render(tokenizer, [USER]) == question
    assert render(tokenizer, [SYSTEM, USER]) == f"Be brief.\n\n{question}"
    assert render(tokenizer, answered) == f"{question}A model.\n\n{question}"
    assert tokenizer.decode(encode(tokenizer, [USER])) == question
    assert len(encode(tokenizer, [USER])) == 14


def test_a_hostile_template_stays_in_its_sandbox(copy):
    jinja = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (copy / "chat_template.jinja").write_text(jinja)
    tokenizer = load_tokenizer(resolve_model(str(copy)))
    with pytest.raises(Exception, match="unsafe"):
        render(tokenizer, [USER])


def test_answers_end_at_the_tokens_of_config_tokenizer_and_template(copy):
    ref = resolve_model(str(copy))
    tokenizer = load_tokenizer(ref)
    assert end_tokens(ref, tokenizer) == (2,)
    # As published models have it: the config names one end token, the template writes another.
    edit_json(copy / "generation_config.json", eos_token_id=[0])
    tokenizer.eos_token = "<|endoftext|>"
    assert end_tokens(ref, tokenizer) == (0, 2)


@pytest.mark.parametrize("end", ["x", 1e30, [[1]], {"a": 1}])
def test_an_end_token_that_is_none_is_named(copy, end):
    edit_json(copy / "generation_config.json", eos_token_id=end)
    ref = resolve_model(str(copy))
    with pytest.raises(ModelError, match=r"generation_config\.json is wrong"):
        end_tokens(ref, load_tokenizer(ref))


def test_a_model_without_any_end_token_is_refused(base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "endless"))
    (folder / "generation_config.json").unlink()
    ref = resolve_model(str(folder))
    tokenizer = load_tokenizer(ref)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end token"):
        end_tokens(ref, tokenizer)
