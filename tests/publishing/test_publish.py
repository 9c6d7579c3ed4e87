"""Publishing against a Hub on loopback, with the real client: all of it at once."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest
from hub_server import UPLOAD_CALLS, Hub
from huggingface_hub import constants
from published import LINEAGE, contents, copy_of

from dpo_pipeline.errors import PublishError
from dpo_pipeline.publishing.settings import PublishConfig


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


def test_of_two_repositories_that_exist_neither_is_touched_when_one_is_public(send, hub, policy):
    hub.add_model("tester/deep", policy)
    with pytest.raises(PublishError, match="model tester/deep is public"):
        send()
    assert hub.repos.keys() == {("models", "tester/deep")}


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
        send(config={"dry_run": True}, lineage=LINEAGE | {"generation": {"seed": 1}})


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


def test_what_is_recorded_has_the_keys_that_it_always_had(send):
    done = send(config={"dry_run": True, "dataset_repo": None})
    written = json.loads((done["out"] / "publish.json").read_text())
    assert written.keys() == {"dry_run", "forced", "note", "model"}
    assert written["model"].keys() == {
        *("repo", "url", "tag", "private", "commit", "committed", "note"),
        *("added", "changed", "deleted", "unchanged", "left_out"),
    }


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
