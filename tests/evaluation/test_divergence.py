"""How far a policy is from its reference, held against the plain forward pass."""

import pytest
from taught import GENERAL, OTHERS, QUESTIONS

from dpo_pipeline.evaluation import divergence
from dpo_pipeline.evaluation.cases import Case, Subject
from dpo_pipeline.evaluation.likelihood import spoken
from dpo_pipeline.models.chat_templates import end_tokens
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.training.token_scores import answer_rows, score_tokens

ASKED = {**GENERAL, **OTHERS, **QUESTIONS}
CASES = [Case("general", ({"role": "user", "content": q},), before=a) for q, a in ASKED.items()]


@pytest.fixture
def subjects(models) -> list[Subject]:
    run_on = ModelConfig(device="cpu", dtype="float32")
    return [Subject(models[name], run_on) for name in ("reference", "forgetful")]


def plain(models) -> float:
    tokenizer = load_tokenizer(models["reference"])
    ends = end_tokens(models["reference"], tokenizer)
    rows = answer_rows(tokenizer, [(c.messages, c.before) for c in CASES])
    rows = [(prompt, ids[: spoken(ids, ends)]) for prompt, ids in rows]
    both = (load_model(models[name], "cpu", "float32") for name in ("forgetful", "reference"))
    scores = score_tokens(*both, rows)
    return sum(s.kl.mean().item() for s in scores) / len(scores)


def test_it_is_that_of_the_plain_forward_pass(models, subjects, tmp_path):
    found = divergence.measure_divergence(*subjects, CASES, tmp_path)["kl"]
    assert found.n == len(CASES)
    assert found.value == pytest.approx(plain(models), rel=1e-3)
    assert found.value > 0.1


def test_the_reference_is_asked_once_for_all_policies(subjects, tmp_path, monkeypatch):
    first = divergence.measure_divergence(*subjects, CASES, tmp_path)["kl"].value
    (file,) = tmp_path.iterdir()
    ran, states = [], divergence._states
    monkeypatch.setattr(divergence, "_states", lambda *given: ran.append(1) or states(*given))
    again = divergence.measure_divergence(*subjects, CASES, tmp_path)["kl"].value
    assert again == pytest.approx(first, rel=1e-5)
    assert len(ran) == 1
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    again = divergence.measure_divergence(*subjects, CASES, tmp_path)["kl"].value
    assert again == pytest.approx(first, rel=1e-5)
    assert len(ran) == 3


def test_scores_that_are_not_the_output_layer_s_alone_are_made_by_the_model_itself(
    models, subjects, tmp_path, monkeypatch
):
    monkeypatch.setattr(divergence, "_scored_by_output_layer", lambda *_: False)
    found = divergence.measure_divergence(*subjects, CASES, tmp_path)["kl"]
    assert found.value == pytest.approx(plain(models), rel=1e-5)
