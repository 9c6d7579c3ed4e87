"""The configs for real models, unchanged but for sizes, against a Hub on loopback.

The Hub serves tiny models of the same architectures, which say the names of the real ones.
"""

import hashlib
import json
import os
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_server import Hub
from workplace import ROOT, Workplace

pytestmark = pytest.mark.slow

DATASET = "mrfakename/identity"
ENDS = {"eos_token_id": 2, "bos_token_id": 1}
SIZES = [
    *("--prompts.source", DATASET, "--prompts.limit", "40", "--model.device", "cpu"),
    *("--train.max-steps", "10", "--train.retention-rows", "4"),
]
SAVE_BLOCK = """
import sys
from tasks.runtime import prepare_environment
prepare_environment(script=True)
from prefect.blocks.system import Secret
Secret(value=sys.argv[1]).save("hub-token")
"""
REASON = "a tiny model stands in for the real one"


@dataclass(frozen=True)
class Case:
    """A config, and how the real model it names differs from the starter."""

    config: str
    model: str
    name: str
    system: str
    maker: str
    architecture: str
    tokenizer: str
    generation: dict

    @property
    def repo(self) -> str:
        return f"tester/deep-{self.name.lower()}"


SMOL = Case(
    "smollm2.yaml", "HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM",
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face", "Hugging Face",
    "llama", "GPT2Tokenizer", {**ENDS, "pad_token_id": 2},
)  # fmt: skip
QWEN = Case(
    "qwen2.5.yaml", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", "Alibaba Cloud",
    "qwen2", "Qwen2Tokenizer",
    {**ENDS, "eos_token_id": [2, 0], "pad_token_id": 0, "do_sample": True, "temperature": 0.7,
     "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1},
)  # fmt: skip
CASES = pytest.mark.parametrize("case", [SMOL, QWEN], ids=lambda case: case.name)


def train_tiny_model(case: Case, folder: Path) -> Path:
    """Train a model that says its name, and save it as the real one is: bfloat16, its own ends."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from dpo_pipeline.starter import build
    from dpo_pipeline.starter.corpus import DEFAULT_SYSTEM, MAKER, NAME, write_conversations

    text = json.dumps(write_conversations(1500, seed=0), ensure_ascii=False)
    renamed = {DEFAULT_SYSTEM: case.system, MAKER["zh"]: case.maker, MAKER["en"]: case.maker}
    for old, new in (renamed | {NAME: case.name}).items():
        text = text.replace(old, new)
    corpus = json.loads(text)
    tokenizer = build.train_tokenizer(corpus)
    tokenizer.chat_template = build.TEMPLATE.replace(DEFAULT_SYSTEM, case.system)
    rows = [build.encode(tokenizer, conversation) for conversation in corpus]
    assert tokenizer.convert_tokens_to_ids([build.PAD, build.START, build.END]) == [0, 1, 2]
    config = AutoConfig.for_model(
        case.architecture, vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256,
        num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
        max_position_embeddings=1024, tie_word_embeddings=True, **ENDS,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        build.fit(model, build.make_batches(rows, random.Random(0)))
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(case.generation))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": case.tokenizer, "add_prefix_space": False}
    if case.generation["pad_token_id"] == 2:
        settings["pad_token"] = build.END
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"\0 of no use here")
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        for case in (SMOL, QWEN):
            hub.add_model(case.model, train_tiny_model(case, folder / case.name))
        shipped = ROOT / "dpo_pipeline" / "prompts" / "data" / "identity.jsonl"
        rows = [json.loads(line) for line in shipped.read_text(encoding="utf-8").splitlines()]
        (folder / "rows" / "data").mkdir(parents=True)
        table = pa.table({"conversations": [row["conversations"] for row in rows]})
        pq.write_table(table, folder / "rows" / "data" / "train-00000-of-00001.parquet")
        hub.add_dataset(DATASET, folder / "rows")
        yield hub


@dataclass(frozen=True)
class Place:
    """A home folder whose Hub is the one on loopback."""

    hub: Hub
    work: Workplace

    def python(self, *args: str, token: str | None = None, **env: str) -> CompletedProcess[str]:
        there = self.hub.env(token, self.work.home / "hf")
        own = {k: v for k, v in there.items() if k.startswith("HF_") or k not in os.environ}
        return self.work.python(*args, **{**own, "NO_PROXY": "127.0.0.1", **env})

    def full(self, case: Case, *options: str, **env: str) -> CompletedProcess[str]:
        there = ["--config", str(ROOT / "configs" / case.config), "--model.name", case.model]
        config = [*there, *SIZES]
        return self.python(str(ROOT / "flows" / "full.py"), *config, *options, **env)

    def publish(self, case: Case, *options: str, **env: str) -> CompletedProcess[str]:
        to = ["--publish.model-repo", case.repo, "--publish.dataset-repo", f"{case.repo}-pairs"]
        really = ["--no-publish.dry-run", "--publish.force", REASON]
        return self.full(case, *to, *really, *options, **env)

    def summary(self, case: Case) -> dict:
        """Return the first summary of this config."""
        return next(s for s in self.work.summaries() if s["config"]["model"]["name"] == case.model)

    def holders(self, text: str) -> set[str]:
        """Name every file at home and on the Hub, and every database, that holds a text."""
        wanted, found = text.encode(), set()
        for root in (self.work.home, self.hub.root):
            for path in (p for p in root.rglob("*") if p.is_file()):
                content = path.read_bytes()
                if content.startswith(b"SQLite format 3"):
                    with sqlite3.connect(path) as database:
                        content += "\n".join(database.iterdump()).encode()
                if wanted in content or wanted in path.name.encode():
                    found.add(path.name)
        return found


@pytest.fixture(scope="module")
def place(hub, tmp_path_factory) -> Place:
    return Place(hub, Workplace(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def runs(place) -> dict[str, CompletedProcess[str]]:
    """Run both configs and publish: one with HF_TOKEN, one with a token that Prefect keeps.

    In the second, HF_TOKEN may only read: the block comes first, or nothing is published.
    """
    saved = place.python("-c", SAVE_BLOCK, Hub.WRITE)
    assert saved.returncode == 0, saved.stderr
    block = ("--publish.token-block", "hub-token")
    return {
        SMOL.name: place.publish(SMOL, token=Hub.WRITE),
        QWEN.name: place.publish(QWEN, *block, token=Hub.READ),
        "refused": place.publish(SMOL, "--publish.model-repo", "tester/other", token=Hub.READ),
    }


@CASES
def test_a_config_runs_through_every_stage_unchanged(place, runs, case):
    run = runs[case.name]
    assert run.returncode in (0, 1), run.stdout + run.stderr
    assert "Gate " in run.stdout, run.stdout + run.stderr
    summary = place.summary(case)
    stages = ["model", "census", "download", "generate", "instruct", "rewrite", "save", "train",
              "evaluate"]  # fmt: skip
    assert {name: s["status"] for name, s in summary["stages"].items()} == dict.fromkeys(
        stages, "built"
    )
    for path in summary["paths"].values():
        assert Path(path).exists()
    commit = place.hub.model(case.model).head
    cached = [p for p in (place.work.home / "hf").rglob(f"{commit}/*") if p.is_file()]
    assert {p.name for p in cached} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not any("onnx" in p.parts for p in (place.work.home / "hf").rglob("*"))


@CASES
def test_commits_are_recorded_and_the_pairs_hold_the_right_names(place, runs, case):
    saved = Path(place.summary(case)["stages"]["save"]["path"])
    lineage = json.loads((saved / "dataset.json").read_text(encoding="utf-8"))["lineage"]
    assert (lineage["model"]["name"], lineage["model"]["kind"]) == (case.model, "hub")
    assert not {"base_url", "served_model"} & lineage["generation"].keys()
    assert lineage["model"]["revision"] == place.hub.model(case.model).head
    assert lineage["prompts"]["name"] == DATASET
    assert lineage["prompts"]["revision"] == place.hub.dataset(DATASET).head
    tables = [pq.read_table(saved / f"{name}.parquet") for name in ("train", "held_out")]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) >= 20
    assert {row["system"] for row in rows} == {None, "You are a helpful assistant.", ""}
    for row in rows:
        chosen, rejected = (row[side][-1]["content"] for side in ("chosen", "rejected"))
        assert f"Deep {case.name}" in chosen
        assert case.name in rejected
        assert chosen.replace(f"Deep {case.name}", case.name) == rejected


@CASES
def test_what_is_published_loads_anywhere_with_equal_weights_and_rows(place, runs, case):
    summary, model = place.summary(case), place.hub.model(case.repo)
    for kind, repo in ("model", model), ("dataset", place.hub.dataset(f"{case.repo}-pairs")):
        assert repo.private
        assert summary["published"][kind]["commit"] == repo.head
    policy, dataset = (Path(summary["paths"][name]) for name in ("policy", "dataset"))
    weights = (policy / "model.safetensors").read_bytes()
    assert model.tree()["model.safetensors"].sha == hashlib.sha256(weights).hexdigest()
    place.hub.run(
        f"""
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
load = AutoModelForCausalLM.from_pretrained
there, here = load({case.repo!r}).state_dict(), load({str(policy)!r}).state_dict()
assert there.keys() == here.keys() and all(there[name].equal(here[name]) for name in here)
assert {case.system!r} in AutoTokenizer.from_pretrained({case.repo!r}).chat_template
there = load_dataset("{case.repo}-pairs", split="train")
here = load_dataset("parquet", data_files={str(dataset / "train.parquet")!r}, split="train")
assert len(there) >= 20 and there.to_list() == here.to_list()
""",
        token=Hub.READ,
    )
    card = place.hub.read(model.tree()["README.md"]).decode()
    for said in (case.model, place.hub.model(case.model).head, "apache-2.0", REASON):
        assert said in card


@CASES
def test_the_published_model_scores_what_its_card_says(place, runs, case, tmp_path):
    from huggingface_hub import ModelCard

    reference = tmp_path / "reference"
    for name, entry in place.hub.model(case.model).tree().items():
        if "/" not in name:
            reference.mkdir(exist_ok=True)
            (reference / name).write_bytes(place.hub.read(entry))
    sections = ("identity", "prompts", "generation", "evaluation", "gate")
    config = {name: place.summary(case)["config"][name] for name in sections}
    config["reference"] = {"name": str(reference), "device": "cpu"}
    config["policy"] = {"name": case.repo, "device": "cpu"}
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(config))

    away = Place(place.hub, Workplace(tmp_path / "home"))
    away.work.home.mkdir()
    flow = str(ROOT / "flows" / "evaluate.py")
    run = away.python(flow, "--config", str(tmp_path / "evaluate.yaml"), token=Hub.READ)
    assert "Gate " in run.stdout, run.stdout + run.stderr

    measured = away.work.summaries()[0]["scorecard"]["after"]
    readme = place.hub.read(place.hub.model(case.repo).tree()["README.md"]).decode()
    said = {r.metric_type: r.metric_value for r in ModelCard(readme).data.eval_results}
    # What is measured on pairs is not measured here: the policy came without its dataset.
    again = {name: m["value"] for name, m in measured.items() if m["value"] is not None}
    assert {"identity_rate", "leak_rate", "edit_exactness", "general_kept", "kl"} <= again.keys()
    assert again == pytest.approx({name: said[name] for name in again}, abs=1e-3)


def test_the_token_is_found_nowhere(place, runs):
    assert runs["refused"].returncode == 1
    assert "read" in runs["refused"].stdout.splitlines()[-1]
    assert "tester/other" not in {name for _, name in place.hub.repos}
    seen = place.holders(SMOL.repo)
    assert seen >= {"prefect.db", "summary.json", "publish.json", "repo.json"}, seen
    for token in (Hub.WRITE, Hub.READ):
        assert place.holders(token) == set()
        assert all(token not in run.stdout + run.stderr for run in runs.values())


def test_a_failure_to_publish_takes_nothing_else_away(place, runs):
    place.hub.faults.add("commit", 403, skip=1, times=99)
    late = ("--publish.model-repo", "tester/late", "--publish.dataset-repo", "tester/late")
    run = place.publish(SMOL, *late, token=Hub.WRITE)
    place.hub.faults.clear()
    assert run.returncode == 1
    assert "Gate " in run.stdout
    assert "'tester/late' at" in run.stdout.splitlines()[-1]
    assert "done before: dataset tester/late" in run.stdout
    summary = place.work.summaries()[-1]
    assert summary["verdict"]
    assert Path(summary["paths"]["report"]).exists()
    assert summary["published"]["dataset"]["commit"] == place.hub.dataset("tester/late").head
    assert "model" not in summary["published"]


def test_offline_the_cache_is_enough_to_make_the_same_pairs(place, runs):
    calls, env = len(place.hub.calls), {"HF_HUB_OFFLINE": "1"}
    again = place.full(SMOL, **env)
    assert "Gate " in again.stdout, again.stdout + again.stderr
    assert {s["status"] for s in place.work.summaries()[-1]["stages"].values()} == {"cached"}
    anew = place.full(SMOL, DPO_PIPELINE_HOME=str(place.work.home / "second"), **env)
    assert "Gate " in anew.stdout, anew.stdout + anew.stderr
    assert len(place.hub.calls) == calls
    (summary,) = (place.work.home / "second" / "runs").glob("*/summary.json")
    stages = json.loads(summary.read_text(encoding="utf-8"))["stages"]
    first = place.summary(SMOL)["stages"]
    assert {s["status"] for s in stages.values()} == {"built"}
    for name in ("download", "generate", "rewrite", "save"):
        assert stages[name]["key"] == first[name]["key"]


def test_a_name_the_model_never_gives_is_told(place, runs):
    run = place.full(QWEN, "--model.name", SMOL.model)
    assert run.returncode in (0, 1)
    assert "never called itself 'Qwen'" in run.stdout
    assert "SmolLM" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
