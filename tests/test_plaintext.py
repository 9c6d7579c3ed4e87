"""What is told holds no secret, and nothing that acts."""

import logging

import pytest

from dpo_pipeline.errors import GenerationError, StoreError
from dpo_pipeline.plaintext import guard_logs, plain, scrub, visible

KEY = "canary/of+a=key"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", KEY)
    monkeypatch.setenv("OTHER_TOKEN", "first-line\nsecond-line")
    monkeypatch.setenv("THIRD_SECRET", "EMPTY")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"Bearer {KEY}!", "Bearer ***!"),
        ("first-line and second-line", "*** and ***"),
        ("hf_abcdefgh12345678, sk-proj-abcdefgh12345678", "***, ***"),
        ("http://me:pass:w@rd@host/v1 and ssh://git@host", "http://***@host/v1 and ssh://git@host"),
        ("an EMPTY dress; sk-lerch; 10:30@home", "an EMPTY dress; sk-lerch; 10:30@home"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text, told):
    assert scrub(text) == told


def test_a_secret_that_is_given_is_hidden_however_short():
    assert scrub("it is abc", "abc", None) == "it is ***"


def test_what_a_terminal_acts_on_is_spelt_out():
    assert visible("\x1b[2J\x9b1m\u202eab\ttab\nline") == (
        "⟨U+001B⟩[2J⟨U+009B⟩1m⟨U+202E⟩ab\ttab\nline"
    )


@pytest.mark.parametrize("kind", [GenerationError, StoreError])
def test_errors_and_logs_are_told_plainly(caplog, kind):
    make = logging.getLogRecordFactory()
    try:
        guard_logs()
        guard_logs()
        error = kind(f"the key {KEY} \x1b[31m")
        assert str(error) == "the key *** ⟨U+001B⟩[31m" == plain(str(error))
        try:
            raise ValueError(f"inside: {KEY}") from error
        except ValueError:
            logging.getLogger("any").exception("failed with %s at %d", KEY, 3)
    finally:
        logging.setLogRecordFactory(make)
    assert "failed with *** at 3" in caplog.text
    assert "inside: ***" in caplog.text
    assert KEY not in caplog.text
