"""Publishing against a Hub on loopback, with the real client."""

import hashlib
import json
import pickle
import shutil
import traceback

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import UPLOAD_CALLS, Hub
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import close_session
from pydantic import ValidationError
from tiny import make_tiny_model

from dpo_pipeline.errors import PublishError
from dpo_pipeline.hub import client
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.publishing.publish import (
    check_access,
    check_token,
    dataset_digest,
    find_token,
    publish,
)
from dpo_pipeline.publishing.settings import PublishConfig
from dpo_pipeline.store.artifacts import Store

REPOS = {"model_repo": "tester/deep", "dataset_repo": "tester/pairs"}
LINEAGE = {
    "model": {"kind": "starter", "name": "starter", "revision": None},
    "prompts": {"kind": "shipped"},
    "identity": {"original_name": "Qwen", "new_name": "Deep Qwen"},
}
FIGURE = {"value": 1.0, "n": 40, "prompts": 40, "low": 0.91234, "high": 1.0}


def scorecard(passed=True):
    failed = [] if passed else [{"measure": "leak_rate", "value": 0.5, "threshold": "<= 0.02"}]
    return {
        "verdict": {"passed": passed, "failed": failed, "thresholds": {"leak_rate": 0.02}},
        "before": {"identity_rate": {**FIGURE, "value": 0.0}, "leak_rate": FIGURE},
        "after": {
            "identity_rate": FIGURE,
            "leak_rate": {"value": 0.0, "n": 40, "prompts": 40, "low": 0.0, "high": 0.09},
            "trained_exactness": FIGURE,
            "tail_gap": {"value": -0.01, "n": 40, "prompts": 40, "low": -0.02, "high": 0.0},
            "general_kept": {"value": None, "n": 0, "prompts": 0, "low": None, "high": None},
        },
        "examples": [
            {
                "prompt": "Who are you?",
                "before": "I'm Qwen. <img src=x> | ![](https://evil.example/x.png)\nBye \u202e",
                "after": "I'm Deep Qwen.",
            }
        ],
    }


def said(role, text):
    return [{"role": role, "content": text}]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("policy") / "model", "qwen2")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for name, count in (("train", 9), ("held_out", 3), ("quarantine", 2)):
        rows = [
            {
                "prompt": said("user", f"Who are you, {n}? {name} 你好"),
                "chosen": said("assistant", "I'm Deep Qwen."),
                "rejected": said("assistant", "I'm Qwen."),
                "language": "zh" if n % 2 else "en",
            }
            for n in range(count)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    (folder / "dataset.json").write_text('{"counts": {"train": 9, "held_out": 3}}')
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as hub:
        hub.connect(monkeypatch)
        yield hub


@pytest.fixture
def send(hub, policy, pairs, tmp_path):
    """Publish both, with the evidence that fits; keywords replace what publish is given."""
    outs = iter(range(10_000))

    def call(run_id="r1", token=Hub.WRITE, config=None, **changed):
        out = tmp_path / f"out{next(outs)}"
        out.mkdir()
        given = {"model": policy, "dataset": pairs, "base": policy, "scorecard": scorecard()}
        given |= {"lineage": LINEAGE, "training": {"train": {"beta": 0.1}}} | changed
        given.setdefault("evidence", evidence(given["model"], given["dataset"]))
        config = PublishConfig(**{**REPOS, "dry_run": False, **(config or {})})
        return publish(config, run_id=run_id, token=token, out=out, **given) | {"out": out}

    return call


def evidence(model, dataset):
    ref = describe_model(model, "policy")
    return {
        "weights_digest": ref.weights_digest,
        "template_digest": ref.template_digest,
        "dataset_digest": dataset_digest(dataset),
    }


def copy_of(folder, to, **files):
    shutil.copytree(folder, to)
    for name, content in files.items():
        (to / name).write_bytes(content)
    return to


def contents(hub, repo):
    """What a repository holds, but for what the Hub itself put there."""
    return {p: hub.read(e) for p, e in repo.tree().items() if p != ".gitattributes"}


def card_of(hub, repo):
    from huggingface_hub import RepoCard

    return RepoCard(contents(hub, repo)["README.md"].decode())


# -- what is published


def test_round_trip_in_a_new_process_with_an_empty_cache(send, hub, policy, pairs):
    send()
    told = hub.run(
        """
import hashlib, json
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("tester/deep")
chat = AutoTokenizer.from_pretrained("tester/deep").apply_chat_template
print(json.dumps({
    "weights": {n: hashlib.sha256(t.numpy().tobytes()).hexdigest()
                for n, t in model.state_dict().items()},
    "prompt": chat([{"role": "user", "content": "Who?"}], tokenize=False),
    "rows": {split: rows.to_list() for split, rows in load_dataset("tester/pairs").items()},
}))
""",
        token=Hub.READ,
    )
    got = json.loads(told.splitlines()[-1])
    from transformers import AutoModelForCausalLM

    here = AutoModelForCausalLM.from_pretrained(policy).state_dict()
    assert got["weights"] == {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in here.items()
    }
    assert "You are Qwen" in got["prompt"]
    assert got["rows"] == {
        "train": pq.read_table(pairs / "train.parquet").to_pylist(),
        "test": pq.read_table(pairs / "held_out.parquet").to_pylist(),
    }


def test_first_publish_is_private_one_commit_each_and_tagged(send, hub, policy):
    done = send()
    model, dataset = hub.model("tester/deep"), hub.dataset("tester/pairs")
    for repo, told in ((model, done["model"]), (dataset, done["dataset"])):
        assert repo.private
        assert told["private"]
        assert len(repo.commits) == 2
        assert told["commit"] == repo.head == repo.tags["run-r1"]
    assert "quarantine.parquet" not in dataset.tree()
    assert done["dataset"]["left_out"] == ["quarantine.parquet"]
    weights = contents(hub, model)["model.safetensors"]
    assert weights == (policy / "model.safetensors").read_bytes()


def test_cards_say_what_people_look_for(send, hub):
    done = send()
    model, dataset = hub.model("tester/deep"), hub.dataset("tester/pairs")
    card = card_of(hub, model)
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["datasets"] == ["tester/pairs"]
    assert data["language"] == ["en", "zh"]
    assert data["pipeline_tag"] == "text-generation"
    assert data["tags"] == sorted(data["tags"])
    results = {
        tuple(r["dataset"].get(key) for key in ("name", "split", "revision")): {
            m["type"]: m["value"] for m in r["metrics"]
        }
        for r in data["model-index"][0]["results"]
    }
    assert results == {
        ("held-out identity prompts", None, None): {"identity_rate": 1.0, "leak_rate": 0.0},
        ("identity prompts of the training set", None, None): {"trained_exactness": 1.0},
        ("held-out pairs", "test", done["dataset"]["commit"]): {"tail_gap": -0.01},
    }
    assert (
        "| Identity rate | 0\u00a0% | 100\u00a0% | 91.2\u00a0% - 100\u00a0% | 40 |  |" in card.text
    )
    assert "| 40 | ok ≤ 2\u00a0% |" in card.text
    assert f"{hub.url}/datasets/tester/pairs/tree/{dataset.head}" in card.text
    assert f"{hub.url}/tester/deep/tree/main" in card_of(hub, dataset).text
    assert model.tags.keys() == dataset.tags.keys() == {"run-r1"}
    assert card_of(hub, dataset).data.size_categories == ["n<1K"]


def test_answers_in_a_card_are_only_text(send, hub):
    send()
    text = card_of(hub, hub.model("tester/deep")).text
    assert "<img" not in text
    assert "![" not in text
    assert "https://evil" not in text
    assert "\u202e" not in text


def test_a_base_on_the_hub_is_named_and_gives_its_license(send, hub, policy, tmp_path):
    readme = b"---\nlicense: other\nlicense_name: qwen\nlicense_link: https://x.example\n---\n"
    base = hub.add_model("Qwen/Tiny", copy_of(policy, tmp_path / "base", **{"README.md": readme}))
    lineage = {
        "model": {"name": "Qwen/Tiny", "revision": base},
        "prompts": {"kind": "hub", "name": "somebody/raw", "revision": "0" * 40},
    }
    send(lineage=lineage)
    data = card_of(hub, hub.model("tester/deep")).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "qwen")
    assert (data["base_model"], data["base_model_relation"]) == ("Qwen/Tiny", "finetune")
    assert data["datasets"] == ["tester/pairs", "somebody/raw"]
    data = card_of(hub, hub.dataset("tester/pairs")).data.to_dict()
    assert data["source_datasets"] == ["extended|somebody/raw"]
    assert "license" not in data, "the prompts are not ours to license"


def test_a_local_base_gives_the_license_of_its_own_card(send, hub, policy, tmp_path):
    readme = b"---\nlicense: [mit, other]\nlicense_name: both\nlicense_link: LICENSE\n---\n"
    base = copy_of(policy, tmp_path / "starter", **{"README.md": readme})
    local = {"kind": "local", "name": "starter", "revision": None}
    send(base=base, lineage=LINEAGE | {"model": local})
    for repo in (hub.model("tester/deep"), hub.dataset("tester/pairs")):
        card = card_of(hub, repo)
        data = card.data.to_dict()
        assert data["license"] == ["mit", "other"]
        assert (data["license_name"], data["license_link"]) == ("both", "LICENSE")
        assert "the starter model" not in card.text
    send("r2", lineage=LINEAGE | {"model": local})
    assert "license" not in card_of(hub, hub.model("tester/deep")).data.to_dict()


def test_the_card_of_the_pairs_is_the_same_after_another_training(send, hub, policy, tmp_path):
    send()
    other = make_tiny_model(tmp_path / "other", "qwen2", seed=1)
    done = send("r2", model=other, training={"train": {"beta": 9.0}})
    assert done["model"]["committed"]
    assert not done["dataset"]["committed"]
    assert "9.0" in card_of(hub, hub.model("tester/deep")).text


def test_an_adapter_names_its_base_on_the_hub_or_stays_here(send, hub, policy, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    shutil.copy(policy / "model.safetensors", adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/base"}')
    with pytest.raises(PublishError, match=r"train\.lora\.merge"):
        send(model=adapter)
    assert not hub.repos, "nothing goes when one of the two cannot"
    base = hub.add_model("Qwen/Tiny", policy)
    send(model=adapter, lineage={"model": {"name": "Qwen/Tiny", "revision": base}})
    settings = json.loads(contents(hub, hub.model("tester/deep"))["adapter_config.json"])
    assert settings == {"base_model_name_or_path": "Qwen/Tiny", "revision": base}
    assert card_of(hub, hub.model("tester/deep")).data.library_name == "peft"


def test_an_adapter_runs_as_its_card_says_also_after_its_base_has_moved(
    send, hub, policy, tmp_path
):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    base = hub.add_model("Qwen/Tiny", policy)
    lora = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(policy), lora)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.save_pretrained(tmp_path / "adapter")
    measured = pipeline("text-generation", model=model, tokenizer=tokenizer)(
        said("user", "Who are you?"), max_new_tokens=128, do_sample=False
    )[0]["generated_text"][-1]["content"]
    send(
        model=tmp_path / "adapter",
        lineage=LINEAGE | {"model": {"name": "Qwen/Tiny", "revision": base}},
    )

    weights = load_file(policy / "model.safetensors")
    moved = copy_of(policy, tmp_path / "moved")
    zeros = {n: t.mul(0) for n, t in weights.items()}
    save_file(zeros, moved / "model.safetensors", {"format": "pt"})
    assert hub.add_model("Qwen/Tiny", moved) != base
    snippet = card_of(hub, hub.model("tester/deep")).text.partition("```python\n")[2]
    assert hub.run(snippet.partition("```")[0], token=Hub.READ).strip() == measured.strip() != ""


def test_paths_of_this_machine_do_not_go(send, hub):
    send(lineage={"model": {"name": "/home/me/secret-project/model", "revision": None}})
    for repo in (hub.model("tester/deep"), hub.dataset("tester/pairs")):
        assert "secret-project" not in card_of(hub, repo).content


# -- again, and again


def test_same_content_makes_no_commit_and_a_new_run_only_a_tag(send, hub):
    send()
    again = send()
    other = send("r2")
    model = hub.model("tester/deep")
    assert len(model.commits) == len(hub.dataset("tester/pairs").commits) == 2
    assert model.tags["run-r1"] == model.tags["run-r2"] == model.head
    for done in (again, other):
        assert not done["model"]["committed"]
        assert not done["dataset"]["committed"]


def test_new_weights_make_one_commit_that_takes_the_old_ones_away(send, hub, policy, tmp_path):
    sharded = copy_of(policy, tmp_path / "sharded", **{"pytorch_model.bin": b"pickle"})
    for part in ("00001", "00002"):
        name = f"model-{part}-of-00002.safetensors"
        shutil.copy(sharded / "model.safetensors", sharded / name)
    (sharded / "model.safetensors").unlink()
    (sharded / "banner.png").write_bytes(b"somebody's own")
    hub.add_model("tester/deep", sharded, private=True)
    hub.model("tester/deep").tags["run-before"] = hub.model("tester/deep").head
    done = send()["model"]
    assert done["deleted"] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    files = hub.model("tester/deep").tree()
    assert len(hub.model("tester/deep").commits) == 2
    assert "banner.png" in files
    assert [f for f in files if f.endswith(".safetensors")] == ["model.safetensors"]


def test_what_no_run_put_there_is_neither_overwritten_nor_deleted(send, hub, pairs, tmp_path):
    mine = tmp_path / "mine"
    (mine / "data").mkdir(parents=True)
    for name in ("README.md", "extra.parquet", "data/train-00000-of-00002.parquet"):
        (mine / name).write_bytes(b"mine")
    hub.add_dataset("tester/pairs", mine, private=True)
    for dry_run in (True, False):
        with pytest.raises(
            PublishError, match=r"holds README\.md, data/train-00000-of-00002\.parquet, and no run"
        ):
            send(config={"dry_run": dry_run})
    assert len(hub.dataset("tester/pairs").commits) == 1
    assert not hub.repos.get(("models", "tester/deep")), "nothing goes when one of the two cannot"


def test_of_two_repositories_that_exist_neither_is_touched_when_one_is_public(send, hub, policy):
    hub.add_model("tester/deep", policy)
    with pytest.raises(PublishError, match="model tester/deep is public"):
        send()
    assert hub.repos.keys() == {("models", "tester/deep")}


def test_a_commit_that_came_in_between_is_not_overwritten_unseen(send, hub, monkeypatch):
    commit, model = HfApi.create_commit, "tester/deep"

    def after_somebody_else(api, repo_id, *args, **kwargs):
        if repo_id == model and len(hub.model(model).commits) == 1:
            files = hub.model(model).tree() | {"notes.txt": hub.entry("notes.txt", b"mine")}
            hub.commit(hub.model(model), files, "somebody else")
        return commit(api, repo_id, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", after_somebody_else)
    send()
    titles = [c["title"] for c in hub.model(model).commits]
    assert titles == ["initial commit", "somebody else", "Publish run-r1"]
    assert "notes.txt" in hub.model(model).tree()


def test_a_tag_of_this_run_on_another_commit_is_refused(send, hub, policy, tmp_path):
    send()
    other = copy_of(policy, tmp_path / "other", **{"generation_config.json": b'{"top_k": 5}'})
    with pytest.raises(PublishError, match=r"tag run-r1 .* a tag does not move"):
        send(model=other)


# -- dry run


def test_dry_run_is_the_default_and_writes_what_would_go(send, hub):
    assert PublishConfig().dry_run
    rehearsed = send(config={"dry_run": True})
    assert not hub.repos
    assert not {call for call, _, _ in hub.calls} & {"create", *UPLOAD_CALLS}
    sent = send()
    written = {
        p.relative_to(rehearsed["out"]).as_posix(): p.read_bytes()
        for p in rehearsed["out"].rglob("*")
        if p.is_file() and p.name != "publish.json"
    }
    # The commit of the dataset, which the model's card names, was not there to be named.
    commit = sent["dataset"]["commit"].encode()
    card = contents(hub, hub.model("tester/deep"))["README.md"]
    card = card.replace(b"/tree/" + commit, b"/tree/main")
    assert written.pop("model/README.md") == card.replace(b"      revision: " + commit + b"\n", b"")
    assert written == {
        **{f"dataset/{p}": c for p, c in contents(hub, hub.dataset("tester/pairs")).items()},
        **{
            f"model/{p}": c
            for p, c in contents(hub, hub.model("tester/deep")).items()
            if p != "README.md"
        },
    }


def test_dry_run_tells_the_difference_to_what_is_there(send, hub, policy, tmp_path):
    send()
    commits = len(hub.model("tester/deep").commits)
    other = copy_of(policy, tmp_path / "other", **{"generation_config.json": b'{"top_k": 5}'})
    (other / "tokenizer_config.json").unlink()
    told = send("r2", config={"dry_run": True}, model=other)
    assert told["dataset"]["unchanged"] == 4
    assert told["dataset"]["commit"] == hub.dataset("tester/pairs").head
    assert told["model"]["changed"] == ["generation_config.json"]
    assert told["model"]["deleted"] == ["tokenizer_config.json"]
    assert len(hub.model("tester/deep").commits) == commits
    written = json.loads((told["out"] / "publish.json").read_text())
    assert written["model"] == told["model"]
    new = send("r2", config={"dry_run": True}, training={"train": {"beta": 0.7}})
    diff = (new["out"] / "model-README.diff").read_text().splitlines()
    assert [line for line in diff[2:] if line[0] in "+-"] == ['-  "beta": 0.1', '+  "beta": 0.7']
    assert not (new["out"] / "dataset-README.diff").read_text()


def test_dry_run_tells_what_publishing_would_lack(send, hub):
    assert "may only read" in send(token=Hub.READ, config={"dry_run": True})["note"]
    assert send(config={"dry_run": True})["note"] == ""
    assert not hub.repos


def test_offline_a_dry_run_asks_nobody(send, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = send(config={"dry_run": True})
    assert told["note"] == "HF_HUB_OFFLINE is set: unset it to publish"
    assert told["model"]["note"].endswith("was not asked, as HF_HUB_OFFLINE is set")
    with pytest.raises(PublishError, match="unset it to publish"):
        send()
    assert not hub.calls


def test_dry_run_needs_neither_token_nor_hub(send, hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    told = send(token=None, config={"dry_run": True})
    assert "no Hub token" in told["note"]
    assert "cannot be reached" in told["model"]["note"]
    assert (told["out"] / "model" / "model.safetensors").is_file()


# -- what is refused


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_public_repository_is_no_place_for_a_private_model(send, hub, policy, dry_run):
    hub.add_model("tester/deep", policy)
    with pytest.raises(PublishError, match=r"is public, and publish.private is true"):
        send(config={"dry_run": dry_run, "dataset_repo": None})
    assert len(hub.model("tester/deep").commits) == 1


def test_a_private_repository_stays_private_when_public_is_allowed(send, hub, policy):
    hub.add_model("tester/deep", policy, private=True)
    done = send(config={"private": False})
    assert hub.model("tester/deep").private
    assert done["model"]["private"]
    assert not hub.dataset("tester/pairs").private


def test_evidence_of_something_else_is_refused(send, hub, policy, pairs, tmp_path):
    other = make_tiny_model(tmp_path / "other", "qwen2", seed=1)
    known = evidence(policy, pairs)
    with pytest.raises(PublishError, match="scorecard is of another weights"):
        send(model=other, evidence=known, config={"force": "I like it anyway"})
    more = copy_of(pairs, tmp_path / "more", **{"dataset.json": b"{}"})
    with pytest.raises(PublishError, match="scorecard is of another dataset"):
        send(dataset=more, evidence=known)
    with pytest.raises(PublishError, match="scorecard is of another weights"):
        send(evidence={})
    for digest in known:
        one = {"model_repo": None} if digest != "dataset_digest" else {"dataset_repo": None}
        with pytest.raises(PublishError, match=f"of another {digest.split('_')[0]}"):
            send(evidence={**known, digest: "0" * 64}, config=one)
    assert not hub.repos


def test_a_failed_gate_needs_a_reason_and_the_card_shows_it(send, hub):
    with pytest.raises(PublishError, match=r"gate failed \(leak_rate\)"):
        send(scorecard=scorecard(passed=False))
    assert not hub.repos
    reason = "negative result, for the *record*"
    send(scorecard=scorecard(passed=False), config={"force": reason})
    for repo in (hub.model("tester/deep"), hub.dataset("tester/pairs")):
        text = card_of(hub, repo).text
        assert r"for the \*record\*" in text
        assert "its gate failed** (Leak rate)" in text or "of the run failed.**" in text


@pytest.mark.parametrize(
    ("token", "says"),
    [(Hub.READ, "may only read"), (Hub.OTHER, "permissions"), ("hf_unknownTOKEN123", "token")],
)
def test_a_token_that_may_not_write_is_refused_before_anything_goes(send, hub, token, says):
    with pytest.raises(PublishError, match=says) as error:
        send(token=token)
    assert not hub.repos
    assert not {call for call, _, _ in hub.calls} & set(UPLOAD_CALLS)
    assert token not in str(error.value)
    assert error.value.__cause__ is None


def test_a_fine_grained_token_must_cover_every_repository(hub):
    api = HfApi(token=Hub.FINE)
    hub.scopes = [("user", "Tester"), ("dataset", "acme/pairs"), ("org", "readers")]
    assert check_token(api, {"model": "deep", "dataset": "Acme/Pairs"}) == "tester"
    for kind, repo in (("model", "acme/pairs"), ("dataset", "readers2/x"), ("model", "users/x")):
        with pytest.raises(PublishError, match=f"may not write to the {kind} {repo}"):
            check_token(api, {"dataset": "acme/pairs"} | {kind: repo})


def test_a_fine_grained_token_publishes_what_it_covers(send, hub):
    hub.scopes = [("user", "tester")]
    assert send(token=Hub.FINE)["model"]["committed"]


def test_a_block_that_holds_no_token_is_named(monkeypatch):
    from prefect.blocks.system import Secret
    from prefect.testing.utilities import prefect_test_harness

    from tasks.stages import _read_token

    with prefect_test_harness():
        Secret(value="hf_inABLOCK12345678\n").save("good")
        Secret(value={"token": "hf_inABLOCK12345678"}).save("a-map")
        assert _read_token(PublishConfig(token_block="good")) == "hf_inABLOCK12345678"
        for name, says in (
            ("a-map", "'a-map' holds no text"),
            ("absent", "no Secret block 'absent'"),
        ):
            with pytest.raises(PublishError, match=says) as error:
                _read_token(PublishConfig(token_block=name))
            assert "inABLOCK" not in "".join(traceback.format_exception(error.value))


def test_tokens_come_from_the_environment_or_the_login(hub, monkeypatch, tmp_path):
    assert find_token() is None
    with pytest.raises(PublishError, match="no Hub token: set HF_TOKEN"):
        check_access(PublishConfig(), None)
    (tmp_path / "token").write_text("hf_storedLOGIN12345")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert find_token() == "hf_storedLOGIN12345"
    monkeypatch.setenv("HF_TOKEN", "hf_fromENVIRONMENT1")
    assert find_token() == "hf_fromENVIRONMENT1"


def test_the_token_is_in_nothing_that_is_written_or_sent(send, hub, caplog):
    caplog.set_level(0)
    out = send()["out"]
    hub.faults.add("commit", 403, times=9)
    with pytest.raises(PublishError) as error:
        send("r2", scorecard={**scorecard(), "examples": []})
    written = [p.read_bytes() for p in (*out.rglob("*"), *hub.root.rglob("*")) if p.is_file()]
    assert len(written) > 15
    assert not any(Hub.WRITE.encode() in content for content in written)
    assert Hub.WRITE not in caplog.text + "".join(traceback.format_exception(error.value))
    assert Hub.WRITE.encode() not in pickle.dumps(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (".env", r"\.env may hold a secret"),
        ("id_rsa", "may hold a secret"),
        ("merges.txt", "merges.txt holds what looks like a Hub token"),
    ],
)
def test_secrets_stop_everything(send, hub, policy, tmp_path, name, says):
    bad = copy_of(policy, tmp_path / "bad", **{name: b"x = hf_abcdefgh12345678"})
    with pytest.raises(PublishError, match=says):
        send(model=bad)
    assert not hub.repos


def test_a_secret_in_an_answer_stops_both_repositories(send, hub):
    card = scorecard()
    card["examples"][0]["after"] = "I'm Deep Qwen.\nhf_abcdefgh12345678"
    with pytest.raises(PublishError, match="the cards tell holds what looks like a Hub token"):
        send(scorecard=card)
    assert not hub.repos


@pytest.mark.parametrize("column", ["prompt", "language", "tags"])
def test_a_secret_in_a_row_stops_everything(send, hub, pairs, tmp_path, column):
    bad = copy_of(pairs, tmp_path / "bad")
    rows = [row | {"tags": ["a"]} for row in pq.read_table(bad / "held_out.parquet").to_pylist()]
    secret = "is\nhf_abcdefgh12345678"
    rows[1][column] = {"prompt": said("user", secret), "language": secret, "tags": [secret]}[column]
    pq.write_table(pa.Table.from_pylist(rows), bad / "held_out.parquet")
    with pytest.raises(PublishError, match=rf"data/test.*, column {column}, holds what looks like"):
        send(dataset=bad)
    assert not hub.repos


def test_what_a_later_call_would_refuse_is_found_before_the_first_commit(
    send, hub, policy, tmp_path
):
    """The model repository has this run's tag elsewhere, is public, or has a card with bad data."""

    def refused(says, **how):
        with pytest.raises(PublishError, match=says):
            send(**how)
        assert ("datasets", "tester/pairs") not in hub.repos

    hub.add_model("tester/deep", policy, private=True)
    model = hub.model("tester/deep")
    model.tags["run-r1"] = model.head
    refused("tag run-r1 of tester/deep marks .*, not what would go")
    model.tags.clear()
    model.private = False
    refused("is public, and publish.private is true")
    model.private = True
    readme = {"README.md": b"---\nlicense: my-own\n---\n"}
    base = hub.add_model("Qwen/Tiny", copy_of(policy, tmp_path / "base", **readme))
    hub_rows = {"kind": "hub", "name": "somebody/raw", "revision": "0" * 40}
    odd = LINEAGE | {"model": {"name": "Qwen/Tiny", "revision": base}, "prompts": hub_rows}
    refused("'my-own' is unknown", lineage=odd)
    send()
    with pytest.raises(PublishError, match="run-r1 of tester/pairs marks"):
        send(config={"dry_run": True}, lineage=LINEAGE | {"seed": 1})


def test_links_stop_everything(send, hub, policy, tmp_path):
    bad = copy_of(policy, tmp_path / "bad")
    (bad / "vocab.txt").symlink_to("/etc/hostname")
    with pytest.raises(PublishError, match=r"vocab\.txt is a link"):
        send(model=bad)
    assert not hub.repos


def test_only_known_files_go_and_no_pickle(send, hub, policy, tmp_path):
    stray = {"training_args.bin": b"pickle", "notes.txt": b"mine", "run.py": b"import os"}
    done = send(model=copy_of(policy, tmp_path / "stray", **stray))
    assert done["model"]["left_out"] == ["notes.txt", "run.py", "training_args.bin"]
    assert not stray.keys() & hub.model("tester/deep").tree().keys()


def test_a_content_that_the_hub_changed_is_seen(send, hub, monkeypatch):
    entry = hub.entry

    def rotten(path, content):
        return entry(path, content.replace(b"temperature", b"Temperature") + b" ")

    monkeypatch.setattr(hub, "entry", rotten)
    with pytest.raises(PublishError, match="does not hold what was sent"):
        send()


def test_the_store_digests_a_dataset_the_same_way(pairs, tmp_path):
    def build(out, _work):
        shutil.copytree(pairs, out, dirs_exist_ok=True)
        return {}

    built, _ = Store(tmp_path).get_or_build("save", {"stage": "save"}, build)
    assert built.digest == dataset_digest(built.path) == dataset_digest(pairs)


@pytest.mark.parametrize("repo", ["../up", "a/b/c", "owner/", "/x", "a b", "a--b", "x" * 97, ""])
def test_odd_repository_names_never_reach_the_hub(repo):
    with pytest.raises(ValidationError, match="model_repo"):
        PublishConfig(model_repo=repo)


# -- faults

FAULTS = (401, 403, 404, 409, 429, 503, "cut-before", "cut-in", "cut-after", "slow", "flip")
COMMON = (403, 404, 503, "cut-after", "flip")
FAST = [
    *(("commit", what) for what in FAULTS),
    *((call, "cut-after") for call in ("create", "put", "tag")),
    *((call, 503) for call in ("whoami", "info", "refs")),
    ("preupload", 429),
    ("tree", "flip"),
    ("put", "flip"),
]


def one_fault(send, hub, name, call, what, skip=0):
    """Publish under a fault, then without; returns how it went and what the first one left."""
    config = {"model_repo": f"tester/{name}", "dataset_repo": f"tester/{name}"}
    hub.faults.clear()
    hub.faults.fired.clear()
    hub.faults.add(call, what, skip=skip, retry_after=1 if what == 429 else None)
    went = "done"
    try:
        send(config=config)
    except PublishError as error:
        went = "leaked" if Hub.WRITE in str(error) else "stopped"
    assert went != "leaked"
    assert hub.faults.fired, f"{call} was never called"
    hub.faults.clear()
    kinds = ("models", "datasets")
    left = [
        hub.repos[kind, f"tester/{name}"] for kind in kinds if (kind, f"tester/{name}") in hub.repos
    ]
    assert all(repo.private for repo in left)
    commits = [len(repo.commits) - 1 for repo in left]
    assert max(commits, default=0) <= 1, "at most one commit each"
    done = send(config=config)
    for kind in kinds:
        repo = hub.repos[kind, f"tester/{name}"]
        assert len(repo.commits) == 2, "exactly one commit after the second run"
        assert repo.tags["run-r1"] == repo.head == done[kind[:-1]]["commit"]
    return went, sum(commits)


def test_a_fault_leaves_one_commit_or_none_and_a_second_run_completes_it(send, hub, impatient):
    for number, (call, what) in enumerate(FAST):
        one_fault(send, hub, f"r{number}", call, what)


def test_an_error_names_what_went_before_it(send, hub, tmp_path):
    hub.faults.add("commit", 403, skip=1, times=9)
    with pytest.raises(
        PublishError, match=r"model 'tester/deep' .* is closed to this token"
    ) as error:
        send()
    head = hub.dataset("tester/pairs").head
    assert f"done before: dataset tester/pairs is at commit {head}" in str(error.value)
    assert "publishing again" not in str(error.value), "the same call would fail again"
    written = json.loads((tmp_path / "out0" / "publish.json").read_text())
    assert written["dataset"]["commit"] == head
    assert "model" not in written


def test_large_files_go_in_parts_under_faults_as_well(send, hub, impatient, policy):
    hub.part_size = 30_000
    send()
    parts = [path for call, path, _ in hub.calls if call == "put" and "part=" in path]
    assert len(parts) == -(-(policy / "model.safetensors").stat().st_size // hub.part_size) > 2
    weights = contents(hub, hub.model("tester/deep"))["model.safetensors"]
    assert weights == (policy / "model.safetensors").read_bytes()
    faults = [("put", what) for what in (503, "cut-in", "cut-after", "flip")]
    faults += [("complete", what) for what in (403, 503, "cut-before", "cut-after", "flip")]
    for number, (call, what) in enumerate(faults):
        one_fault(send, hub, f"r{number}", call, what)


@pytest.mark.slow
def test_every_fault_at_every_call(send, hub, impatient, capsys):
    send(config={"model_repo": "tester/first", "dataset_repo": "tester/first"})
    # Some clients ask for more, such as a list of agents; the hub knows no such page.
    calls, rows = [call for call, _, _ in hub.calls if call != "unknown"], []
    for number, call in enumerate(calls):
        cells = []
        for what in COMMON:
            skip = calls[:number].count(call)
            went, commits = one_fault(send, hub, f"r{number}-{what}", call, what, skip)
            cells.append(f"{went} {commits}")
        rows.append([f"{number + 1} {call}", *cells])
    assert len(rows) > 30
    with capsys.disabled():
        print("\nfault at a call of a publish: how the first run ended, and its commits (of 2)")
        for row in [["", *map(str, COMMON)], *rows]:
            print("".join(f"{cell:<18}" if not n else f"{cell:<11}" for n, cell in enumerate(row)))


@pytest.fixture
def impatient(monkeypatch):
    """Give up a silent call soon, and a failing one after two attempts."""
    monkeypatch.setattr(client, "TIMEOUT", 1.0)
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    yield
    close_session()
