"""The scorecard on real tiny models, taught what to say."""

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted import SPEC, case
from taught import (
    GENERAL,
    GENERATION,
    IDENTITY,
    NEUTRAL,
    QUESTIONS,
    evaluate,
    failed,
    renamed,
)

from dpo_pipeline.errors import EvaluationError
from dpo_pipeline.evaluation import cases, robustness, statistics
from dpo_pipeline.evaluation import scorecard as scoring
from dpo_pipeline.evaluation.cases import Subject, score
from dpo_pipeline.evaluation.likelihood import copied_tail
from dpo_pipeline.evaluation.scorecard import Material, Terms
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.training.token_scores import score_tokens


class TestVerdicts:
    def test_a_policy_that_only_changed_its_name_passes(self, work, models):
        card = evaluate(work, models["reference"], models["good"])
        assert failed(card) == set()
        after = card["after"]
        assert card["before"]["identity_rate"]["value"] == 0.0
        assert card["before"]["leak_rate"]["value"] == 1.0
        assert after["identity_rate"]["value"] == 1.0
        # Held-out prompts are asked under both system prompts.
        assert after["identity_rate"]["n"] == 2 * len(QUESTIONS)
        assert after["maker_rate"]["n"] == 0
        assert after["identity_rate"]["prompts"] == len(QUESTIONS)
        assert "system prompt" in card["leaks"]
        assert after["edit_exactness"]["value"] == 1.0
        assert after["preference_accuracy"]["value"] == 1.0
        assert after["reward_margin"]["value"] > 0
        assert after["tail_gap"]["value"] == pytest.approx(0.0, abs=0.1)
        assert after["trained_identity_rate"] == {**after["trained_identity_rate"], "n": 1}
        assert card["examples"][0] == {
            "prompt": "What is your name?",
            "before": "My name is Qwen.",
            "after": "My name is Deep Qwen.",
        }

    def test_the_reference_against_itself_learned_nothing_and_broke_nothing(self, work, models):
        card = evaluate(work, models["reference"], models["reference"])
        # It finds the new name itself so strange that what follows is less likely, too.
        learned_nothing = {"identity_worst", "leak_rate"}
        assert learned_nothing <= failed(card) <= learned_nothing | {"tail_gap"}
        after = card["after"]
        assert after["general_unchanged"]["value"] == 1.0
        assert after["reward_margin"]["value"] == 0.0
        assert after["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
        assert set(card["noise"]) <= set(GateConfig.model_fields)

    def test_a_policy_that_forgot_fails_on_general_answers_only(self, work, models):
        card = evaluate(work, models["reference"], models["forgetful"])
        assert failed(card) == {"general_kept", "kl", "new_name_unasked"}
        assert card["after"]["general_kept"]["value"] == 0.0
        assert card["after"]["general_kept"]["n"] == len(GENERAL)

    def test_a_noisy_machine_does_not_excuse_a_policy_that_forgot(self, work, models, monkeypatch):
        noise = {"general_kept": statistics.wilson(40, 40)}
        monkeypatch.setattr(robustness, "machine_noise", lambda *_: noise)
        verdict = evaluate(work, models["reference"], models["forgetful"])["verdict"]
        remarks = {line["measure"]: line["remark"] for line in verdict["failed"]}
        assert remarks["general_kept"] == "this machine's own noise is over 91.2%"

    def test_another_model_fails_by_its_fallen_tail_too(self, work, models):
        card = evaluate(work, models["reference"], models["raw"])
        assert {"identity_worst", "tail_gap", "general_kept"} <= failed(card)
        assert card["after"]["kl"]["value"] > 0.1

    def test_a_fallen_tail_fails_though_the_answers_are_right(self, work, models, monkeypatch):
        def fallen(policy, reference, rows):
            scores = score_tokens(policy, reference, rows)
            for i in range(0, 2 * len(QUESTIONS), 2):
                copied = [new for new, _ in copied_tail(rows[i][1], rows[i + 1][1])]
                scores[i].policy[copied] -= 0.5
            return scores

        monkeypatch.setattr("dpo_pipeline.training.token_scores.score_tokens", fallen)
        card = evaluate(work, models["reference"], models["good"])
        assert card["after"]["edit_exactness"]["value"] == 1.0
        assert failed(card) == {"tail_gap"}

    def test_without_a_dataset_the_ideal_answers_are_the_pairs(self, work, models):
        card = evaluate(work, models["reference"], models["good"], pairs=False)
        assert failed(card) == set()
        assert card["after"]["tail_gap"]["n"] == 2 * len(QUESTIONS)
        assert card["after"]["tail_gap"]["prompts"] == len(QUESTIONS)
        assert card["after"]["trained_identity_rate"]["n"] == 0

    def test_an_old_name_in_the_template_is_seen(self, work, models):
        template = evaluate(work, models["reference"], models["good"])["template"]
        assert template["before"]["names_original"]
        assert template["before"]["text"].startswith("You are Qwen")


class TestCost:
    def test_answers_in_the_ledger_are_not_made_again(self, work, models):
        first = evaluate(work, models["reference"], models["good"])
        size = sum(p.stat().st_size for p in (work / "ledger").rglob("*"))
        again = evaluate(work, models["reference"], models["good"], "again")
        assert sum(p.stat().st_size for p in (work / "ledger").rglob("*")) == size
        assert again == first

    def test_extras_can_be_switched_off(self, work, models):
        card = evaluate(
            work, models["reference"], models["good"],
            matrix_prompts=0, noise_prompts=0, max_pairs=0, trained_prompts=0,
        )  # fmt: skip
        assert card["matrix"] == {}
        assert card["noise"] == {}
        assert card["after"]["reward_margin"]["n"] == 0
        assert card["verdict"]["passed"]

    def test_progress_reaches_its_end(self, work, models):
        seen = []
        (work / "out").mkdir()
        limits = EvaluationConfig(general=str(work / "general.jsonl"))
        run_on = ModelConfig(device="cpu")
        scoring.evaluate(
            Subject(models["reference"], run_on),
            Subject(models["good"], run_on),
            Material(work / "prompts.parquet", work),
            Terms(IDENTITY, GENERATION, limits, GateConfig(), beta=0.1),
            ledger=work / "ledger",
            references=work / "references",
            out=work / "out",
            on_progress=lambda done, total: seen.append((done, total)),
        )
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0


class TestFiles:
    def test_scorecard_and_answers_are_written(self, work, models):
        card = evaluate(work, models["reference"], models["good"], sampled=2, temperatures=(0.7,))
        assert {"verdict", "before", "after", "by", "matrix", "examples"} <= set(card)
        assert list(card["matrix"]) == list(cases.matrix_systems(IDENTITY))
        sampled = card["sampled"]["0.7"]["identity_rate"]
        assert (sampled["n"], sampled["prompts"]) == (2 * len(QUESTIONS), len(QUESTIONS))
        assert 0.5 < sampled["value"] <= 1.0
        assert card["by"]["language"]["zh"]["identity_rate"]["value"] == 1.0
        rows = pq.read_table(work / "out" / "answers.parquet").to_pylist()
        held_out = [r for r in rows if r["group"] == "held_out"]
        assert {r["system"] for r in held_out} == {None, NEUTRAL}
        for row in held_out:
            assert row["after"] == row["ideal"] == renamed(row["before"])
            assert "leaks" in row["before_flags"]
            assert "gives_new" in row["after_flags"]

    def test_without_held_out_prompts_there_is_no_score(self, work, models):
        rows = [
            {**r, "split": "train"} for r in pq.read_table(work / "prompts.parquet").to_pylist()
        ]
        pq.write_table(pa.Table.from_pylist(rows), work / "prompts.parquet")
        with pytest.raises(EvaluationError, match="none of them is held out"):
            evaluate(work, models["reference"], models["good"])


def test_what_a_template_refuses_is_left_out(work, models, tmp_path):
    folder = tmp_path / "refusing"
    shutil.copytree(models["reference"].path, folder)
    template = (folder / "chat_template.jinja").read_text("utf-8")
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusal + template, encoding="utf-8")
    card = evaluate(work, describe_model(folder, "refusing"), models["good"])
    assert card["counts"]["held_out"] == len(QUESTIONS)
    assert card["counts"]["matrix/neutral"] == 0
    assert card["matrix"]["none sent"]["after"]["identity_rate"]["value"] == 1.0
    assert card["matrix"]["neutral"]["after"]["identity_rate"]["value"] is None


def test_answers_are_split_by_what_the_prompts_are():
    answers = [
        case("I'm Qwen.", language="en", turns=1, family="name"),
        case("我是Qwen。", "我是Qwen。", language="zh", turns=2, family="name"),
    ]
    marked = score(answers, SPEC)
    assert scoring.split(marked, "language")["en"]["identity_rate"].value == 1.0
    assert scoring.split(marked, "language")["zh"]["leak_rate"].value == 1.0
    assert scoring.split(marked, "turns")["2"]["vendor_claims"].value == 0.0
    assert scoring.split(marked, "family")["name"]["identity_rate"].n == 2


def test_nothing_is_left_behind_but_the_result(work, models):
    before = {p for p in work.rglob("*") if not {"ledger", "references"} & {*p.parts}}
    evaluate(work, models["reference"], models["good"])
    new = {p for p in work.rglob("*") if not {"ledger", "references"} & {*p.parts}} - before
    assert {p.name for p in new} == {"out", "scorecard.json", "answers.parquet"}
