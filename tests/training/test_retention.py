"""What must stay is held: the loss, its gradient, and what is kept of the reference."""

import copy

import pytest
import torch
from trained import (
    CONFIG,
    history_of,
    interrupt_at,
    largest_difference,
    stats_of,
    train_here,
    write_answers,
)

from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.training import retention
from dpo_pipeline.training.retention import divergence, read_states, write_states
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import read_held

HELD = {"retention_weight": 4.0, "retention_rows": 4, "completion_tokens": 8}


@pytest.fixture
def answers(tmp_path):
    return write_answers(tmp_path)


def random_states(seed=0, tokens=7, width=12, words=50):
    torch.manual_seed(seed)
    shape = ((tokens, width), (words, width), (tokens, width), (words, width))
    return [torch.randn(s, dtype=torch.float64) for s in shape]


def plain_divergence(hidden, weight, held, held_weight):
    policy = (hidden @ weight.mT).log_softmax(-1)
    reference = (held @ held_weight.mT).log_softmax(-1)
    return (reference.exp() * (reference - policy)).sum(-1)


def test_divergence_and_its_gradients_are_those_of_plain_pytorch():
    hidden, weight, held, held_weight = random_states()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    ours = divergence(*leaves, held, held_weight)
    outer = torch.linspace(0.5, 1.5, len(ours), dtype=torch.float64)
    found = torch.autograd.grad((ours * outer).sum(), leaves)
    plain = plain_divergence(*leaves, held, held_weight)
    wanted = torch.autograd.grad((plain * outer).sum(), leaves)
    # The scores are compared in float32, whatever they come in.
    torch.testing.assert_close(ours.double(), plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_equal_models_have_no_divergence_and_no_gradient():
    hidden, weight, *_ = random_states()
    hidden.requires_grad_()
    kl = divergence(hidden, weight, hidden.detach(), weight)
    kl.sum().backward()
    assert float(kl.abs().max()) < 1e-6
    assert float(hidden.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_held_stays_nearer(ref, dataset, answers, tmp_path, engine, method):
    config = TrainConfig(**CONFIG.model_dump() | HELD | {"engine": engine, "method": method})
    free = config.model_copy(update={"retention_weight": 1e-9})
    held, loose = (
        history_of(train_here(ref, dataset, tmp_path / name, settings, retention=answers))
        for name, settings in (("held", config), ("loose", free))
    )
    assert held[0]["retention_kl"] < 1e-5  # the policy starts as the reference
    assert 0 < held[-1]["retention_kl"] < loose[-1]["retention_kl"]


def test_both_engines_hold_alike(ref, dataset, answers, tmp_path):
    runs = [
        train_here(ref, dataset, tmp_path / engine, retention=answers, engine=engine, **HELD)
        for engine in ("shared-prefix", "trl")
    ]
    first, second = map(history_of, runs)
    kls = [[row["retention_kl"] for row in rows] for rows in (first, second)]
    torch.testing.assert_close(torch.tensor(kls[0]), torch.tensor(kls[1]), rtol=0.05, atol=1e-5)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_run_holds_the_rows_whose_turn_it_is(ref, dataset, answers, tmp_path, method):
    settings = {"retention": answers, "method": method, **HELD}
    whole = train_here(ref, dataset, tmp_path / "whole", **settings)
    interrupt_at(5, ref, dataset, tmp_path / "run", **settings)
    out = train_here(ref, dataset, tmp_path / "run", **settings)
    assert largest_difference(out, whole) == 0
    assert (out / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()
    assert stats_of(out).steps == 6


def test_only_the_start_of_an_answer_is_held(ref, answers):
    tokenizer = load_tokenizer(ref)
    whole, cut = (read_held(answers, tokenizer, limit) for limit in (None, 3))
    assert [answer[:3] for _, answer in whole] == [answer for _, answer in cut]
    assert min(len(answer) for _, answer in whole) > 3


def test_the_setting_says_how_much_of_an_answer_is_held(ref, dataset, answers, tmp_path):
    few, many = (
        train_here(ref, dataset, tmp_path / str(n), retention=answers, **HELD, retention_tokens=n)
        for n in (8, 64)
    )
    assert history_of(few)[-1]["retention_kl"] != history_of(many)[-1]["retention_kl"]


def test_states_are_kept_and_damage_is_noticed(tmp_path):
    rows = [([1, 2], [3, 4, 5]), ([1], [6])]
    states = [torch.randn(3, 8), torch.randn(1, 8)]
    file = tmp_path / "states.safetensors"
    assert read_states(file, rows) is None
    write_states(file, states)
    for found, wanted in zip(read_states(file, rows), states, strict=True):
        assert torch.equal(found, wanted)
    assert read_states(file, rows[:1]) is None
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    assert read_states(file, rows) is None
    file.write_bytes(body[:20])
    assert read_states(file, rows) is None


def test_the_reference_is_run_once_for_all_trainings(ref, dataset, answers, tmp_path, monkeypatch):
    first = train_here(ref, dataset, tmp_path / "run", retention=answers, **HELD)
    kept = copy.deepcopy(history_of(first))

    def fail(*_):
        raise AssertionError("the reference was run again")

    monkeypatch.setattr(retention.RetainingDPOTrainer, "_compute_states", fail)
    for checkpoint in (tmp_path / "run" / "work").glob("checkpoints/*"):
        checkpoint.rename(checkpoint.with_name(f"old-{checkpoint.name}"))
    again = train_here(ref, dataset, tmp_path / "run", retention=answers, **HELD)
    assert history_of(again) == kept


def test_a_model_with_other_scores_is_refused(ref, dataset, answers, tmp_path, monkeypatch):
    load = load_model

    def scaled(*args, **kwargs):
        model = load(*args, **kwargs)
        plain = model.forward

        def forward(*args, **kwargs):
            out = plain(*args, **kwargs)
            if hasattr(out, "logits") and out.logits is not None:
                out.logits = out.logits * 0.1
            return out

        model.forward = forward
        return model

    monkeypatch.setattr("dpo_pipeline.training.trainer.load_model", scaled)
    with pytest.raises(Exception, match=r"set train\.retention_weight to 0"):
        train_here(ref, dataset, tmp_path, retention=answers, engine="trl", **HELD)
