"""A chat template cannot hang, crash or flood the process that renders it."""

import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import TemplateError
from tiny import CHATML

from dpo_pipeline.models import limits
from dpo_pipeline.models.chat_templates import default_system, render
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import resolve_model

USER = {"role": "user", "content": "Who are you?"}
TWICE = "{% set ns = namespace(x='ab') %}{% for _ in range(99) %}{% set ns.x = CODE %}{% endfor %}"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tiny):
    """One whose templates have little time and room."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SECONDS", 0.5)
        patch.setattr(limits, "ROOM", 1 << 28)
        limits._end()  # what other tests left has more
        yield load_tokenizer(resolve_model(str(tiny)))
        limits._end()


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (LOOP, r"ran for over 0\.5 s"),
        ("{{ 7 ** (10 ** 8) }}", r"ran for over 0\.5 s"),  # nothing in the process could end it
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{% for i in range(99999) %}{{ 'x' * 199 }}{% endfor %}", "writes 19,899,801 characters"),
        ("{{ 'a' * 10**9 }}", "MemoryError: it takes over 256 MiB"),
        ("{% set x = [0] * 10**9 %}", "MemoryError"),
        ("{{ 'a'.ljust(10**9) }}", "MemoryError"),
        ("{{ '%999999999d' % 1 }}", "MemoryError"),
        ("{{ 'a' | center(10**9) }}", "MemoryError"),
        ("{{ ('a' * 10**5).replace('a', 'b' * 10**5) }}", "MemoryError"),
        (TWICE.replace("CODE", "ns.x ~ ns.x"), "MemoryError"),
        (TWICE.replace("CODE", "[ns.x, ns.x] | list + [ns.x] * 10**6"), "MemoryError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ raise_exception('no system messages') }}", "^no system messages$"),
        ("{% if", "unexpected 'end of template'"),
    ],
)
def test_a_hostile_template_is_an_error_of_the_template(tokenizer, template, why):
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match=why):
        render(tokenizer, [USER])


def test_a_template_writes_what_transformers_writes_after_others_went_wrong(tokenizer):
    tokenizer.chat_template = "{{ 7 ** (10 ** 8) }}"
    assert default_system(tokenizer) is None
    tokenizer.chat_template = "{{ bos_token }}{{ eos_token }}" + CHATML
    said = [USER, {"role": "assistant", "content": "\ud83d half, \x1b, 你好\n"}, USER]
    expected = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert render(tokenizer, said) == expected


def test_its_process_ends_with_the_one_that_asks(tokenizer):
    code = (
        "import os, signal\n"
        "from dpo_pipeline.models import limits\n"
        "limits.render_apart([], chat_template='x')\n"
        "print(limits._running[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    status = Path(f"/proc/{int(done.stdout)}/status")
    while status.exists() and "State:\tZ" not in status.read_text():
        render(tokenizer, [USER])  # takes a while


def test_a_forked_process_has_a_process_of_its_own(tokenizer):
    expected = render(tokenizer, [USER])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(render, [(tokenizer, [USER])] * 4) == [expected] * 4
    assert render(tokenizer, [USER]) == expected
