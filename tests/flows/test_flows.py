"""The pipeline as people run it: from a terminal, again, after damage, against a server."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from prefect_server import wait_for
from workplace import ROOT, Workplace

from dpo_pipeline.config import PipelineConfig

STAGES = ["model", "census", "download", "generate", "rewrite", "save", "train", "evaluate"]

RUN_AND_LIST_HEAVY = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("loaded:", [m for m in ("torch", "transformers", "trl", "datasets") if m in sys.modules])
"""


def statuses(summary: dict) -> dict[str, str]:
    return {name: stage["status"] for name, stage in summary["stages"].items()}


def test_the_default_run_changes_the_name_and_nothing_else(workplace, first_run):
    assert first_run.returncode == 0, first_run.stdout + first_run.stderr
    summary = workplace.summaries()[0]
    assert list(summary["stages"]) == STAGES
    assert set(statuses(summary).values()) == {"built"}
    config = PipelineConfig.model_validate(summary["config"])
    unsettled = {name: getattr(PipelineConfig(), name) for name in ("identity", "generation")}
    assert config.model_copy(update=unsettled) == PipelineConfig().resolve()
    assert (config.identity.original_name, config.identity.new_name) == ("Qwen", "Deep Qwen")
    rows = summary["stages"]["download"]["rows"]
    assert config.generation == PipelineConfig().generation.settle(rows)
    before, after = summary["scorecard"]["before"], summary["scorecard"]["after"]
    assert before["identity_rate"]["value"] == 0
    assert after["identity_rate"]["value"] >= 0.95
    assert after["leak_rate"]["value"] <= 0.02
    assert after["edit_exactness"]["value"] >= 0.90
    assert after["maker_rate"]["value"] >= 0.95
    assert after["general_kept"]["value"] >= 0.98
    assert after["identity_rate"]["n"] >= 100
    assert after["general_kept"]["n"] >= 80


def test_a_person_sees_stages_answers_scorecard_and_paths(workplace, first_run):
    shown = first_run.stdout
    for stage in STAGES:
        assert f"{stage} " in shown
    assert "What is your name?" in shown
    assert "Deep Qwen" in shown
    assert "Who is it? Shares of its answers" in shown
    assert "Gate passed" in shown
    assert "aliases 通义千问/Tongyi Qianwen, developer Alibaba Cloud, " in shown
    assert "learning_rate 0.0002, max_steps 180, " in shown
    assert "the chat template inserts 'You are Qwen, created by Alibaba Cloud." in shown
    for noise in ("Traceback", "telemetry", "database is locked"):
        assert noise not in shown + first_run.stderr
    for path in workplace.summaries()[0]["paths"].values():
        assert path in shown
        assert Path(path).exists()


def test_again_everything_is_cached_and_nothing_heavy_loads(workplace, first_run):
    again = workplace.python("-c", RUN_AND_LIST_HEAVY, str(ROOT / "flows" / "full.py"))
    assert again.returncode == 0, again.stdout + again.stderr
    first, second = workplace.summaries()[0], workplace.summaries()[-1]
    assert set(statuses(second).values()) == {"cached"}
    assert second["scorecard"] == first["scorecard"]
    assert "loaded: []" in again.stdout


def test_the_policy_loads_as_any_model_does(workplace, first_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = workplace.summaries()[0]["paths"]["policy"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": "What is your name?"}]
    inputs = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    assert "Deep Qwen" in tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])


@pytest.mark.slow
def test_the_reference_is_no_export_of_the_policy(workplace, first_run, server):
    run = workplace.python(
        str(ROOT / "flows" / "evaluate.py"), "--export.name", "starter",
        "--policy.name", workplace.summaries()[0]["paths"]["policy"],
        "--evaluation.max-prompts", "20", "--evaluation.matrix-prompts", "0",
        PREFECT_API_URL=server,
    )  # fmt: skip
    assert run.returncode == 1, run.stdout + run.stderr
    summary = workplace.summaries()[-1]
    failed = {line["measure"] for line in summary["verdict"]["failed"]}
    assert failed == {"export_same_answers", "export_kl"}
    assert "Answers that differ" in Path(summary["paths"]["report"]).read_text("utf-8")
    assert Path(summary["paths"]["parity"]).exists()


def test_held_out_prompts_never_reach_training(workplace, first_run):
    import pyarrow.parquet as pq

    dataset = Path(workplace.summaries()[0]["paths"]["dataset"])
    trained = pq.read_table(dataset / "train.parquet").to_pylist()
    held_out = pq.read_table(dataset / "held_out.parquet").to_pylist()

    def questions(rows: list[dict]) -> set[str]:
        return {row["prompt"][-1]["content"].casefold().strip(" ?!.？。！") for row in rows}

    assert len(trained) > 400
    assert len(held_out) > 80
    assert not questions(trained) & {
        q for q in questions(held_out) if len(q.split()) > 1 and not _is_follow_up(held_out, q)
    }


def _is_follow_up(rows: list[dict], question: str) -> bool:
    """Tell whether a question only occurs after earlier turns, which make it another prompt."""
    turns = [r for r in rows if question in r["prompt"][-1]["content"].casefold()]
    return all(sum(m["role"] == "user" for m in r["prompt"]) > 1 for r in turns)


def _slow(stage: str) -> object:
    return pytest.param(stage, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "stage",
    ["rewrite", *(_slow(stage) for stage in STAGES if stage != "rewrite")],
)
def test_a_flipped_byte_is_noticed_and_the_stage_rebuilt(
    workplace, first_run, server, stage, tmp_path
):
    first = workplace.summaries()[0]
    folder = Path(first["stages"][stage]["path"])
    victim = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)

    again = workplace.full(PREFECT_API_URL=server)

    assert again.returncode == 0, again.stdout + again.stderr
    summary = workplace.summaries()[-1]
    # The same bytes came again, so that nothing after them had to be made.
    assert statuses(summary) == {s: "built" if s == stage else "cached" for s in STAGES}
    assert summary["scorecard"] == first["scorecard"]
    assert "set aside" in again.stdout


def test_against_a_server_cached_stages_show_as_cached(workplace, first_run, server):
    run = workplace.full(PREFECT_API_URL=server)
    assert run.returncode == 0, run.stdout + run.stderr
    run_id = workplace.summaries()[-1]["run_id"]
    task_runs = httpx.post(
        f"{server}/task_runs/filter",
        json={"flow_runs": {"id": {"any_": [run_id]}}},
    ).json()
    assert {t["name"].split()[0]: t["state"]["name"] for t in task_runs} == dict.fromkeys(
        STAGES, "Cached"
    )
    pairs = workplace.summaries()[-1]["stages"]["save"]["rows"]
    assert f"save starter on {pairs:,} pairs" in {t["name"] for t in task_runs}
    artifacts = httpx.post(
        f"{server}/artifacts/filter", json={"flow_runs": {"id": {"any_": [run_id]}}}
    ).json()
    assert {"scorecard", "answers", "report"} <= {a["key"] for a in artifacts}
    (answers,) = (a["data"] for a in artifacts if a["key"] == "answers")
    assert answers.count("- after: ") == 20


def test_an_edit_rebuilds_the_stages_that_import_the_module_and_no_other(
    workplace, first_run, server, tmp_path
):
    for name in ("dpo_pipeline", "tasks", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name)
    edited = tmp_path / "dpo_pipeline" / "evaluation" / "measures.py"
    edited.write_text(edited.read_text() + "\nEDITED = True\n")
    copy = Workplace(workplace.home, tmp_path)
    run = copy.full(PREFECT_API_URL=server)
    assert run.returncode == 0, run.stdout + run.stderr
    # The copy's starter lies elsewhere, which is recorded; it is the same, and nothing follows.
    assert statuses(workplace.summaries()[-1]) == {
        s: "built" if s in ("model", "evaluate") else "cached" for s in STAGES
    }


WRONG = {
    "an unknown option": (["--train.bta", "0.1"], "--train.beta"),
    "a wrong value": (["--train.beta", "much"], "train.beta"),
    "a value out of range": (["--train.beta", "-1"], "greater than 0"),
    "a missing file": (["--config", "absent.yaml"], "no such file"),
    "a wrong choice": (["--model.device", "tpu"], "'auto', 'cpu' or 'cuda'"),
}


@pytest.mark.parametrize(("options", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_says_what_was_expected_before_anything_loads(workplace, options, said):
    run = workplace.python("-X", "importtime", str(ROOT / "flows" / "full.py"), *options)
    assert run.returncode == 2
    assert said in run.stderr
    assert "prefect" not in run.stderr
    assert "torch" not in run.stderr


def test_help_lists_every_option_with_its_default(workplace):
    shown = workplace.full("--help").stdout
    for option in ("--identity.new-name", "--train.beta", "--generation.max-new-tokens"):
        assert option in shown
    assert "(default: auto)" in shown
    assert "lambda" not in shown


def test_preferences_that_exist_are_trained_on_from_any_folder(tmp_path, server):
    from dpo_pipeline.evaluation.measures import find

    workplace = Workplace(tmp_path)
    config = str(ROOT / "configs" / "llama-scratch.yaml")
    run = workplace.python(
        str(ROOT / "flows" / "preference.py"), "--config", config, "--train.epochs", "1",
        PREFECT_API_URL=server,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    (summary,) = workplace.summaries()
    assert Path(summary["paths"]["policy"]).is_dir()
    assert summary["preferences"]["reward_margin"]["n"] == 4
    table, _, rest = run.stdout.partition("  policy ")
    for name in summary["preferences"]:
        assert find(name).name in table
        assert f"({find(name).unit})" in table or find(name).unit in ("", "%")
    assert "Next: " in rest
    assert "sequence length" not in run.stdout + run.stderr


@pytest.mark.slow
def test_preferences_of_which_none_is_measured_are_trained_on(tmp_path):
    workplace = Workplace(tmp_path)
    config = str(ROOT / "configs" / "llama-scratch.yaml")
    unmeasured = ("--train.epochs", "1", "--evaluation.max-pairs", "0")
    run = workplace.python(str(ROOT / "flows" / "preference.py"), "--config", config, *unmeasured)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Next: " in run.stdout
    assert workplace.summaries()[-1]["preferences"] == {}


@pytest.mark.parametrize(
    ("missing", "options", "error"),
    [
        ("absent.jsonl", ("--prompts.source",), "DataError"),
        pytest.param(
            *("absent.yaml", ("--train.processes", "2", "--train.accelerate"), "TrainingError"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_missing_file_fails_in_one_line(workplace, first_run, server, missing, options, error):
    run = workplace.full(*options, missing, PREFECT_API_URL=server)
    assert run.returncode == 1
    assert error in run.stdout
    assert missing in run.stdout
    assert "Traceback" not in run.stdout + run.stderr


@pytest.fixture
def alpaca_file(tmp_path) -> Path:
    """A self-cognition set in Alpaca rows, with placeholders."""
    questions = [
        "Who are you?", "What is your name?", "Who made you?", "Do you have a name?",
        "What are you called?", "Introduce yourself.", "Are you {{name}}?", "Who is your creator?",
        "Are you an AI made by {{author}}?", "Tell me your name please.", "你是谁？",
        "你叫什么名字？",
        "Which company built you?", "May I ask who you are?", "What should I call you?",
    ]  # fmt: skip
    rows = [
        {"instruction": q, "input": "", "output": "I am {{name}}, made by {{author}}."}
        for q in questions
    ]
    path = tmp_path / "identity.json"
    path.write_text(json.dumps(rows, ensure_ascii=False))
    return path


def test_alpaca_rows_with_placeholders_run_as_they_are(workplace, first_run, server, alpaca_file):
    import pyarrow.parquet as pq

    run = workplace.full(
        "--prompts.source", str(alpaca_file), "--prompts.held-out", "0.3", "--pairs.min-pairs", "4",
        PREFECT_API_URL=server,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.stderr  # so few pairs need not pass the gate
    summary = workplace.summaries()[-1]
    assert summary["stages"]["model"]["status"] == "cached"
    responses = pq.read_table(Path(summary["stages"]["generate"]["path"]) / "responses.parquet")
    text = json.dumps(responses.to_pylist(), ensure_ascii=False)
    assert "{{" not in text
    assert len(responses) >= 20


def test_a_sweep_trains_each_setting_on_the_same_pairs_and_compares(workplace, first_run, server):
    references = workplace.home / "dpo" / "references"
    known = set(references.iterdir())
    run = workplace.python(
        str(ROOT / "flows" / "sweep.py"),
        "--grid.beta", "0.2", "--grid.learning-rate", "5e-5,2e-4", "--gate.edit-exactness", "0.8",
        "--evaluation.max-prompts", "20", "--evaluation.matrix-prompts", "0",
        PREFECT_API_URL=server,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    summary = workplace.summaries()[-1]
    shared = ("model", "census", "download", "generate", "rewrite", "save")
    assert {summary["stages"][name]["status"] for name in shared} == {"cached"}
    # Steps of 5e-5 leave the starter as it was; the best comes first.
    tried = [(row["learning_rate"], row["gate"]) for row in summary["tried"]]
    assert tried == [(2e-4, "passed"), (5e-5, "failed")]
    # The default setting was trained by the first run; the other reads its reference log-probs.
    trained = {name: s["status"] for name, s in summary["stages"].items() if "train" in name}
    assert sorted(trained.values()) == ["built", "cached"]
    assert set(references.iterdir()) == known
    page = Path(summary["paths"]["report"]).read_text()
    assert "beta 0.2, learning_rate 5e-05" in page
    best = summary["paths"]["best"]
    assert f"Next: python flows/full.py --config {best}" in run.stdout
    config = PipelineConfig.model_validate(yaml.safe_load(Path(best).read_text()))
    assert config.resolve().train == PipelineConfig().resolve().train
    assert config.gate.edit_exactness == 0.8
    # The command that it names publishes the best without any work done again.
    run = workplace.full(
        "--config", best, "--publish.model-repo", "me/best", PREFECT_API_URL=server,
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    published = workplace.summaries()[-1]
    assert set(statuses(published).values()) == {"cached"}
    assert published["paths"]["policy"] == summary["paths"]["policy"]
    assert published["published"]["model"]["repo"] == "me/best"


SEARCH = (
    *("--search.trials", "4", "--search.learning-rate", "1e-5,1e-3", "--train.max-steps", "60"),
    *("--train.goal.every", "10", "--evaluation.max-prompts", "20"),
    *("--evaluation.matrix-prompts", "0"),
)


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_prunes_what_falls_behind(workplace, first_run, server):
    """Its study outlives kill -9, and what came to its end is not trained again."""
    sweep = [sys.executable, str(ROOT / "flows" / "sweep.py"), *SEARCH]
    policies, studies = (workplace.home / "dpo" / name for name in ("objects/train", "studies"))
    known = set(policies.iterdir())
    with subprocess.Popen(
        sweep, env=workplace.environment(PREFECT_API_URL=server), cwd=workplace.home,
        stdout=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        wait_for(lambda: len(set(policies.iterdir()) - known) >= 2)
        os.killpg(process.pid, signal.SIGKILL)
    kept = {path: path.stat().st_mtime_ns for path in policies.glob("*/manifest.json")}
    run = workplace.python(*sweep[1:], PREFECT_API_URL=server)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    summary = workplace.summaries()[-1]
    assert len(summary["tried"]) + len(summary["dropped"]) == 4
    assert len(list(studies.iterdir())) == 1
    margins = [(row["gate"] == "passed", row["margin"]) for row in summary["tried"]]
    assert margins == sorted(margins, reverse=True)
    cached = [s["status"] for name, s in summary["stages"].items() if name.startswith("train ")]
    assert cached.count("cached") >= 1
    # A third run has nothing left to do.
    again = workplace.python(*sweep[1:], PREFECT_API_URL=server)
    assert set(statuses(workplace.summaries()[-1]).values()) == {"cached"}, again.stdout
    assert workplace.summaries()[-1]["tried"] == summary["tried"]
