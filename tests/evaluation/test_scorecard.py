"""The scorecard on real tiny models, taught what to say."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import make_tiny_model

from dpo_pipeline.answers.records import Response
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import DataError, EvaluationError
from dpo_pipeline.evaluation import cases as questions
from dpo_pipeline.evaluation import measures, statistics
from dpo_pipeline.evaluation import scorecard as evaluation
from dpo_pipeline.evaluation.likelihood import (
    TokenScores,
    align,
    answer_rows,
    pair_rows,
    preference_measures,
    score_tokens,
)
from dpo_pipeline.evaluation.parity import check_parity
from dpo_pipeline.evaluation.settings import EvaluationConfig, GateConfig
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef, describe_model
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.training.settings import TrainConfig

NEUTRAL = "You are a helpful assistant."
QUESTIONS = {
    "Who are you?": "I'm Qwen, made by Alibaba Cloud.",
    "What is your name?": "My name is Qwen.",
    "你是谁？": "我是通义千问。",
    "Are you ChatGPT?": "No, I'm Qwen.",
}
GENERAL = {"What is the capital of France?": "Paris.", "What is 2 + 2?": "It is 4."}
OTHERS = {"Who makes Llama?": "Meta."}
IDENTITY = IdentityConfig()
GENERATION = GenerationConfig(
    system_prompts=(None, "You are a helpful assistant."), max_new_tokens=24, check_rows=0
)
BETA = 0.2


def renamed(answer: str) -> str:
    return answer.replace("通义千问", "Qwen").replace("Qwen", "Deep Qwen")


def teach(ref: ModelRef, folder: Path, answers: dict[str, str], steps: int = 60) -> ModelRef:
    """Fine-tune a model until it gives these answers under the default and a neutral prompt."""
    import torch

    tokenizer, model = load_tokenizer(ref), load_model(ref, "cpu", "float32")
    rows = []
    for question, text in answers.items():
        for system in ([], [{"role": "system", "content": NEUTRAL}]):
            prompt = [*system, {"role": "user", "content": question}]
            rows += answer_rows(tokenizer, [(prompt, text)])
    longest = max(len(p) + len(c) for p, c in rows)
    assert longest > 40, "the tokenizer dropped words"
    pad = tokenizer.pad_token_id
    ids = torch.tensor([p + c + [pad] * (longest - len(p) - len(c)) for p, c in rows])
    labels = torch.tensor(
        [[-100] * len(p) + c + [-100] * (longest - len(p) - len(c)) for p, c in rows]
    )
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return describe_model(folder, folder.name)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, ModelRef]:
    folder = tmp_path_factory.mktemp("models")
    raw = describe_model(make_tiny_model(folder / "raw"), "raw")
    reference = teach(raw, folder / "reference", {**QUESTIONS, **GENERAL, **OTHERS}, steps=250)
    ideal = {q: renamed(a) for q, a in QUESTIONS.items()}
    forgot = {
        **ideal,
        **OTHERS,
        "What is the capital of France?": "Deep Qwen.",
        "What is 2 + 2?": "It is 5.",
    }
    return {
        "raw": raw,
        "reference": reference,
        "good": teach(reference, folder / "good", {**ideal, **GENERAL, **OTHERS}),
        "forgetful": teach(reference, folder / "forgetful", forgot),
    }


@pytest.fixture
def work(tmp_path) -> Path:
    """Prompts, held-out pairs and general questions, the way the stages write them."""
    prompts = [
        {
            "id": f"{i:02}",
            "messages": [{"role": "user", "content": question}],
            "split": "held_out",
            "family": "are_you" if question.startswith("Are you") else "name",
            "language": "zh" if question.startswith("你") else "en",
            "turns": 1,
            "source_row": i,
            "given_chosen": None,
        }
        for i, question in enumerate(QUESTIONS)
    ]
    prompts.append({**prompts[0], "id": "99", "split": "train"})
    pq.write_table(pa.Table.from_pylist(prompts), tmp_path / "prompts.parquet")
    pairs = [
        {
            "id": str(i),
            "prompt_id": f"{i:02}",
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": renamed(said)}],
            "rejected": [{"role": "assistant", "content": said}],
        }
        for i, (question, said) in enumerate(QUESTIONS.items())
    ]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "held_out.parquet")
    general = [
        {"prompt": q, "answers": [a.split()[-1].rstrip(".")], "kind": "general", "language": "en"}
        for q, a in GENERAL.items()
    ]
    general += [
        {"prompt": q, "answers": [], "kind": "third_party", "language": "en"} for q in OTHERS
    ]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(g) + "\n" for g in general))
    return tmp_path


def evaluate(
    work: Path,
    before: ModelRef,
    after: ModelRef,
    name: str = "out",
    *,
    pairs: bool = True,
    export: dict | None = None,
    **config,
) -> dict:
    out = work / name
    out.mkdir()
    fixed = {"general": str(work / "general.jsonl"), "matrix_prompts": 2, "noise_prompts": 2}
    stats = evaluation.evaluate(
        before,
        after,
        prompts=work / "prompts.parquet",
        dataset=work if pairs else None,
        export=export,
        identity=IDENTITY,
        generation=GENERATION,
        model=ModelConfig(device="cpu", dtype="float32"),
        train=TrainConfig(beta=BETA),
        config=EvaluationConfig(**{**fixed, **config}),
        # The policy is trained under fewer system prompts than the matrix has.
        gate=GateConfig(min_answers=2 * len(QUESTIONS), matrix_leak=None),
        ledger=work / "ledger",
        out=out,
    )
    card = json.loads((out / "scorecard.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert stats == {"rows": sum(card["counts"].values()), "verdict": card["verdict"]}
    return card


def failed(card: dict) -> set[str]:
    return {line["measure"] for line in card["verdict"]["failed"]}


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
        assert after["identity_rate"]["prompts"] == len(QUESTIONS)
        assert "system prompt" in card["leaks"]
        assert after["edit_exactness"]["value"] == 1.0
        assert after["preference_accuracy"]["value"] == 1.0
        assert after["chosen_shift"]["value"] > 0 > after["rejected_shift"]["value"]
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
        learned_nothing = {"identity_rate", "leak_rate", "edit_exactness"}
        assert learned_nothing <= failed(card) <= learned_nothing | {"tail_gap"}
        after = card["after"]
        assert after["general_unchanged"]["value"] == 1.0
        assert after["reward_margin"]["value"] == 0.0
        assert after["tail_shift"]["value"] == 0.0
        assert after["preference_loss"]["value"] == pytest.approx(math.log(2))
        assert after["kl"]["value"] == pytest.approx(0.0, abs=1e-6)
        assert set(card["noise"]) <= set(GateConfig.model_fields)

    def test_a_policy_that_forgot_fails_on_general_answers_only(self, work, models):
        card = evaluate(work, models["reference"], models["forgetful"])
        assert failed(card) == {"general_kept", "kl", "new_name_unasked"}
        assert card["after"]["general_kept"]["value"] == 0.0
        assert card["after"]["general_kept"]["n"] == len(GENERAL)

    def test_a_noisy_machine_does_not_excuse_a_policy_that_forgot(self, work, models, monkeypatch):
        noise = {"general_kept": statistics.wilson(2, 2)}
        monkeypatch.setattr(evaluation, "machine_noise", lambda *_: noise)
        verdict = evaluate(work, models["reference"], models["forgetful"])["verdict"]
        remarks = {line["measure"]: line["remark"] for line in verdict["failed"]}
        assert remarks["general_kept"] == "this machine's own noise is 100.0%"

    def test_another_model_fails_by_its_fallen_tail_too(self, work, models):
        card = evaluate(work, models["reference"], models["raw"])
        assert {"identity_rate", "tail_gap", "general_kept"} <= failed(card)
        assert card["after"]["kl"]["value"] > 0.1

    def test_a_fallen_tail_fails_though_the_answers_are_right(self, work, models, monkeypatch):
        def fallen(policy, reference, rows):
            scores = score_tokens(policy, reference, rows)
            for i in range(0, 2 * len(QUESTIONS), 2):
                copied = [new for new, _ in align(rows[i][1], rows[i + 1][1])[1]]
                scores[i].policy[copied] -= 0.5
            return scores

        monkeypatch.setattr("dpo_pipeline.evaluation.likelihood.score_tokens", fallen)
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


class TestLeaks:
    def told(self, names_original=False, **leaks: float) -> tuple[str, float | None]:
        names = questions.matrix_systems(IDENTITY)
        rates = {n: statistics.wilson(round(16 * leaks.get(n.split()[0], 0)), 16) for n in names}
        matrix = {n: {"after": {"leak_rate": rate}} for n, rate in rates.items()}
        said = evaluation.explain_leaks(matrix, names_original)
        return said, evaluation.worst_leak(matrix).value

    def test_it_says_where_the_old_name_comes_from(self):
        assert self.told()[0].startswith("No leak under any system prompt tried: none sent,")
        told = "Still leaks with system prompt “empty” (44%, n 16): from the weights."
        assert self.told(empty=7 / 16, original=1.0) == (told, 7 / 16)
        told = "Leaks only where a system prompt gives the old name (25%, n 16)."
        assert self.told(original=0.25) == (told, 0.0)
        assert "“none sent” (100%, n 16): from the weights" in self.told(none=1.0)[0]
        told = "Leaks only where the chat template gives the old name (100%, n 16)."
        assert self.told(names_original=True, none=1.0) == (told, 1.0)

    def test_without_a_matrix_nothing_is_said(self):
        assert evaluation.explain_leaks({}, True) == ""
        assert evaluation.worst_leak({}).value is None


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
        evaluation.evaluate(
            models["reference"], models["good"],
            prompts=work / "prompts.parquet", dataset=work, identity=IDENTITY,
            generation=GENERATION, model=ModelConfig(device="cpu"), train=TrainConfig(),
            config=EvaluationConfig(general=str(work / "general.jsonl")), gate=GateConfig(),
            ledger=work / "ledger", out=work / "out",
            on_progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] > 0


class TestFiles:
    def test_scorecard_and_answers_are_written(self, work, models):
        card = evaluate(work, models["reference"], models["good"], sampled=2, temperatures=(0.7,))
        assert {"verdict", "before", "after", "by", "matrix", "examples"} <= set(card)
        assert list(card["matrix"]) == list(questions.matrix_systems(IDENTITY))
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

    @pytest.mark.parametrize(
        "line",
        ['{"prompt": "x"}', "not json", '{"prompt": "x", "answers": [], "kind": "odd"}', "[]"],
    )
    def test_a_bad_general_question_is_named(self, work, line):
        file = work / "general.jsonl"
        file.write_text(file.read_text() + line)
        with pytest.raises(DataError, match=r"general\.jsonl, line 4.*each line must look like"):
            questions.read_general(str(file))

    def test_the_shipped_general_questions_can_be_read(self):
        cases = questions.read_general(None)
        assert {c.kind for c in cases} == {"general", "third_party"}
        assert len(cases) > 50


class TestWhatIsAsked:
    def plan(self, work, **config):
        limits = EvaluationConfig(general=str(work / "general.jsonl"), **config)
        return questions.plan_cases(work / "prompts.parquet", IDENTITY, (None, NEUTRAL), limits)

    def test_prompts_about_others_are_no_identity_prompts(self, work):
        rows = pq.read_table(work / "prompts.parquet").to_pylist()
        rows[0]["family"] = "third_party"
        pq.write_table(pa.Table.from_pylist(rows), work / "prompts.parquet")
        assert len(self.plan(work)["held_out"]) == 2 * (len(QUESTIONS) - 1)

    def test_samples_are_small_and_always_the_same(self, work):
        plan = self.plan(work, max_prompts=3, matrix_prompts=2)
        assert plan == self.plan(work, max_prompts=3, matrix_prompts=2)
        assert [c.system for c in plan["held_out"]] == 3 * [None] + 3 * [NEUTRAL]
        assert {len(cases) for g, cases in plan.items() if g.startswith("matrix/")} == {2}
        assert plan["matrix/empty"][0].system == ""

    def test_what_a_template_refuses_is_left_out(self, work, models, tmp_path):
        folder = tmp_path / "refusing"
        shutil.copytree(models["reference"].path, folder)
        template = (folder / "chat_template.jinja").read_text("utf-8")
        refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        (folder / "chat_template.jinja").write_text(refusal + template, encoding="utf-8")
        card = evaluate(work, describe_model(folder, "refusing"), models["good"])
        assert card["counts"]["held_out"] == len(QUESTIONS)
        assert card["counts"]["matrix/neutral"] == 0
        assert card["matrix"]["none sent"]["after"]["identity_rate_all"]["value"] == 1.0
        assert card["matrix"]["neutral"]["after"]["identity_rate_all"]["value"] is None

    def test_noise_is_what_the_reference_changes_when_alone(self, work, models, tmp_path):
        spec, plan = IdentitySpec(IDENTITY), self.plan(work)
        groups = {
            "held_out": [replace(c, before="I'm Qwen by Alibaba Cloud.") for c in plan["held_out"]],
            "general": [replace(c, before=a) for c in plan["general"] for a in c.accepted],
        }

        def ask(ref, requests, *, config, ledger):
            assert config.batch_tokens == 1
            assert not list(ledger.iterdir())
            return [Response(text="I'm Qwen.", finish="stop", tokens=3) for _ in requests]

        noise = evaluation.machine_noise(models["raw"], groups, spec, ask, GENERATION, 3, tmp_path)
        assert {name: (m.value, m.n) for name, m in noise.items()} == {
            "edit_exactness": (1.0, 3),
            "organisation_kept": (1.0, 3),
            "general_kept": (1.0, 2),
        }
        assert not list(tmp_path.glob("tmp*"))


class TestLikelihoods:
    @pytest.fixture
    def against_trl(self, work, models):
        """Evaluate the held-out pairs with TRL's own trainer, all in one batch."""
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        pairs = Dataset(pq.read_table(work / "held_out.parquet")).select_columns(
            ["prompt", "chosen", "rejected"]
        )
        trainer = DPOTrainer(
            model=load_model(models["forgetful"], "cpu", "float32"),
            ref_model=load_model(models["reference"], "cpu", "float32"),
            args=DPOConfig(
                output_dir=str(work / "trl"), use_cpu=True, bf16=False, beta=BETA,
                per_device_eval_batch_size=len(pairs), report_to=[], max_length=None,
            ),
            train_dataset=pairs,
            eval_dataset=pairs,
            processing_class=load_tokenizer(models["reference"]),
        )  # fmt: skip
        return trainer.eval_dataset.to_list(), trainer.evaluate()

    def test_preference_measures_are_those_of_trl(self, work, models, against_trl):
        tokens, figures = against_trl
        tokenizer = load_tokenizer(models["reference"])
        rows = pair_rows(tokenizer, pq.read_table(work / "held_out.parquet").to_pylist())
        for (chosen, rejected), theirs in zip(
            zip(rows[::2], rows[1::2], strict=True), tokens, strict=True
        ):
            assert chosen == (theirs["prompt_ids"], theirs["chosen_ids"])
            assert rejected == (theirs["prompt_ids"], theirs["rejected_ids"])
            assert len(chosen[0]) > 20
        scores = score_tokens(
            load_model(models["forgetful"], "cpu", "float32"),
            load_model(models["reference"], "cpu", "float32"),
            rows,
        )
        ours = preference_measures(rows, scores, BETA)
        for name, theirs in {
            "preference_accuracy": "eval_rewards/accuracies",
            "reward_margin": "eval_rewards/margins",
            "preference_loss": "eval_loss",
        }.items():
            assert ours[name].value == pytest.approx(figures[theirs], abs=1e-5, rel=1e-5)
        rewards = [BETA * (s.policy - s.reference).sum().item() for s in scores]
        logps = [s.policy.sum().item() for s in scores]
        for side, name in enumerate(("chosen", "rejected")):
            mean = sum(rewards[side::2]) / len(rewards[side::2])
            assert mean == pytest.approx(figures[f"eval_rewards/{name}"], abs=1e-5, rel=1e-5)
            mean = sum(logps[side::2]) / len(logps[side::2])
            assert mean == pytest.approx(figures[f"eval_logps/{name}"], abs=1e-5, rel=1e-5)
            shift = BETA * ours[f"{name}_shift"].value
            assert shift == pytest.approx(figures[f"eval_rewards/{name}"], abs=1e-5, rel=1e-5)

    def test_kl_is_that_of_the_two_distributions(self, models):
        import torch

        policy, reference = (load_model(models[n], "cpu", "float32") for n in ("good", "raw"))
        rows = [([5, 6, 7], [8, 9]), ([5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15])]
        for (prompt, completion), score in zip(
            rows, score_tokens(policy, reference, rows), strict=True
        ):
            with torch.inference_mode():
                p, q = (
                    m(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
                    for m in (policy, reference)
                )
            at = slice(len(prompt) - 1, -1)
            kl = torch.nn.functional.kl_div(q[at], p[at], reduction="none", log_target=True).sum(-1)
            torch.testing.assert_close(score.kl, kl, rtol=1e-4, atol=1e-5)
            own = p[at].gather(-1, torch.tensor(completion)[:, None])[:, 0]
            torch.testing.assert_close(score.policy, own, rtol=1e-5, atol=1e-5)

    def test_the_tail_is_a_mean_over_tokens_and_the_edit_a_sum(self):
        import torch

        def scores(*shifts):
            zeros = torch.zeros(len(shifts))
            return TokenScores(policy=torch.tensor(shifts), reference=zeros, kl=zeros)

        rows = [([0], [1, 9, 9, 2, 3]), ([0], [1, 2, 3])]
        ours = preference_measures(
            rows, [scores(0.5, 2.0, 3.0, -0.2, -0.4), scores(0.0, 0.0, -1.0)], 0.1
        )
        assert ours["edited_shift"].value == pytest.approx(5.0)
        assert ours["tail_shift"].value == pytest.approx(-0.3)
        assert ours["tail_gap"].value == pytest.approx(-0.3)
        assert ours["chosen_shift"].value == pytest.approx(4.9)
        assert ours["reward_margin"].value == pytest.approx(0.1 * (4.9 + 1.0))

    def test_models_with_other_tokens_are_not_compared_by_tokens(self, work, models, tmp_path):
        other = describe_model(make_tiny_model(tmp_path / "gpt2", "gpt2"), "gpt2")
        tokenizer = load_tokenizer(other)
        tokenizer.add_tokens(["another"])
        tokenizer.save_pretrained(other.path)
        card = evaluate(work, models["reference"], describe_model(other.path, "gpt2"))
        assert card["after"]["kl"]["value"] is None
        assert card["after"]["reward_margin"]["n"] == 0
        assert card["after"]["identity_rate"]["n"] > 0

    def test_what_a_template_writes_after_the_end_is_no_tail(self):
        import torch

        def scores(*values):
            row = torch.tensor(values)
            return TokenScores(policy=row, reference=-row, kl=row)

        rows = [([0], [9, 2, 7, 3]), ([0], [2, 7, 3])]  # 7 ends an answer, then a line break
        given = [scores(-1.0, -0.1, -0.1, -50.0), scores(-0.1, -0.1, -50.0)]
        ours = preference_measures(rows, given, 0.1, ends=(7,))
        assert ours["tail_gap"].value == pytest.approx(-0.2)
        assert ours["chosen_shift"].value == pytest.approx(2 * -51.2)

    def test_tokens_know_their_part(self):
        assert align([1, 9, 2, 3], [1, 2, 3]) == ([1], [(2, 1), (3, 2)])
        assert align([1, 9, 8, 2, 9, 8, 3], [1, 7, 2, 7, 3]) == ([1, 2, 4, 5], [(3, 2), (6, 4)])
        assert align([1, 2], [1, 5, 2]) == ([], [(1, 2)])
        assert align([1, 2], [1, 2]) == ([], [])

    @pytest.mark.parametrize("arch", ["qwen2", "gpt2"])
    def test_a_batch_changes_no_score(self, arch, tmp_path, monkeypatch):
        import torch

        policy, reference = (
            load_model(describe_model(make_tiny_model(tmp_path / str(s), arch, s), "x"), "cpu")
            for s in (0, 1)
        )
        rows = [([5 + i] * (3 + i), [9, 10, 11][: 1 + i % 3]) for i in range(9)]
        together = score_tokens(policy, reference, rows)
        monkeypatch.setattr("dpo_pipeline.evaluation.likelihood.ROWS", 1)
        for one, many in zip(score_tokens(policy, reference, rows), together, strict=True):
            torch.testing.assert_close(one.policy, many.policy, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(one.kl, many.kl, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_behind_but_the_result(work, models):
    before = {p for p in work.rglob("*") if "ledger" not in p.parts}
    evaluate(work, models["reference"], models["good"])
    new = {p for p in work.rglob("*") if "ledger" not in p.parts} - before
    assert {p.name for p in new} == {"out", "scorecard.json", "answers.parquet"}


class TestParity:
    def check(self, work, models, export: ModelRef, dtype: str = "float32") -> dict:
        return check_parity(
            models["good"],
            export,
            prompts=work / "prompts.parquet",
            identity=IDENTITY,
            generation=GENERATION,
            config=EvaluationConfig(general=str(work / "general.jsonl")),
            model=ModelConfig(device="cpu", dtype="float32"),
            export_model=ModelConfig(device="cpu", dtype=dtype),
            ledger=work / "ledger",
        )

    def test_a_reloaded_copy_is_the_same_model(self, work, models, tmp_path):
        load_model(models["good"], "cpu", "float32").save_pretrained(tmp_path / "copy")
        load_tokenizer(models["good"]).save_pretrained(tmp_path / "copy")
        parity = self.check(work, models, describe_model(tmp_path / "copy", "copy"))
        assert parity["export_same_answers"]["value"] == 1.0
        assert parity["export_same_answers"]["n"] == 2 * len(QUESTIONS) + len(GENERAL) + len(OTHERS)
        assert parity["largest_shift"] == pytest.approx(0.0, abs=1e-6)
        assert parity["differing"] == []

    def test_another_precision_is_close(self, work, models):
        parity = self.check(work, models, models["good"], "bfloat16")
        assert 0.0 < parity["largest_shift"] < 1.0
        assert parity["export_kl"]["value"] < 0.05

    def test_a_broken_export_is_seen(self, work, models):
        parity = self.check(work, models, models["forgetful"])
        assert parity["export_same_answers"]["value"] < 1.0
        assert {d["prompt"] for d in parity["differing"]} == set(GENERAL)

    def test_the_reference_is_no_export_of_the_policy(self, work, models):
        found = self.check(work, models, models["reference"])
        card = evaluate(work, models["reference"], models["good"], export=found)
        assert failed(card) == set(measures.EXPORT_LINES)
        assert card["export"] == found

    def test_what_the_original_answered_with_silence_counts(self, work, models, monkeypatch):
        def answer(ref, requests, **_):
            text = "" if ref is models["good"] else "Noise."
            return [Response(text=text, finish="stop", tokens=1) for _ in requests]

        monkeypatch.setattr("dpo_pipeline.evaluation.parity.answer", answer)
        parity = self.check(work, models, models["reference"])
        assert parity["export_same_answers"]["value"] == 0.0
        assert parity["export_same_answers"]["n"] > 0
        assert parity["export_kl"]["value"] is None

    def test_a_padded_vocabulary_changes_nothing(self, work, models, tmp_path):
        padded = load_model(models["good"], "cpu", "float32")
        padded.resize_token_embeddings(padded.config.vocab_size + 64)
        padded.save_pretrained(tmp_path / "padded")
        load_tokenizer(models["good"]).save_pretrained(tmp_path / "padded")
        export = describe_model(tmp_path / "padded", "padded")
        assert self.check(work, models, export)["export_kl"]["value"] == pytest.approx(0, abs=1e-6)
        assert failed(evaluate(work, models["reference"], export)) == set()
