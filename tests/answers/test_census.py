"""Who a model says it is, before anything depends on its name."""

import shutil
from pathlib import Path

import pytest
from asking import GREEDY, HERE, SAMPLED, ask

from dpo_pipeline.answers import census
from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.census import take_census
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import resolve_model


def test_a_model_that_never_says_the_name_is_stopped_with_its_words(ref, tmp_path):
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path}
    with pytest.raises(GenerationError, match=r"never called itself 'Qwen' in 8 answers") as error:
        take_census(ref, IdentityConfig(), **options)
    said = answer(ref, [ask("Who are you?")], **options)[0].text
    assert repr(said[:120]) in str(error.value)
    assert "identity.original_name" in str(error.value)


def test_a_model_that_says_the_name_passes(ref, tmp_path, monkeypatch):
    def named(*args, **kwargs):
        return [
            r.model_copy(update={"text": "我是通义千问。"}) if i == 3 else r
            for i, r in enumerate(answer(*args, **kwargs))
        ]

    monkeypatch.setattr(census, "answer", named)
    found = take_census(ref, IdentityConfig(), model=HERE, config=SAMPLED, ledger=tmp_path)
    assert (found.asked, found.named) == (8, 1)
    assert found.answers[3].model_dump() == {
        "system": None,
        "prompt": "你是谁？",
        "response": "我是通义千问。",
    }


def test_no_answer_at_all_stops_with_the_reason(ref, tmp_path):
    folder = Path(shutil.copytree(ref.path, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no talking') }}")
    options = {"model": HERE, "config": GREEDY, "ledger": tmp_path / "ledger"}
    with pytest.raises(GenerationError, match=r"answered no question.*no talking"):
        take_census(resolve_model(str(folder)), IdentityConfig(), **options)
