"""A chat template cannot hang, crash or flood the process that renders it."""

import threading

import pytest
from jinja2 import TemplateError

from dpo_pipeline.models import limits
from dpo_pipeline.models.chat_templates import default_system, render
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import resolve_model

USER = {"role": "user", "content": "Who are you?"}
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (LOOP, "ran for over 0.5 s"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "OverflowError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{% for i in range(99999) %}{{ 'x' * 199 }}{% endfor %}", "characters"),
    ],
)
def test_a_hostile_template_is_an_error_of_the_template(tiny, monkeypatch, template, why):
    monkeypatch.setattr(limits, "SECONDS", 0.5 if template is LOOP else 60.0)
    tokenizer = load_tokenizer(resolve_model(str(tiny)))
    tokenizer.chat_template = template
    with pytest.raises(TemplateError, match=why):
        render(tokenizer, [USER])
    assert default_system(tokenizer) is None


def test_the_limit_holds_in_any_thread_and_leaves_nothing_behind():
    found = []

    def spin() -> None:
        try:
            with limits.bounded(0.2):
                while True:
                    pass
        except TemplateError as error:
            found.append(str(error))

    thread = threading.Thread(target=spin)
    thread.start()
    thread.join(60)
    assert found == ["the chat template ran for over 0.2 s"]
    with limits.bounded(60):
        assert sum(range(1000)) == 499500
