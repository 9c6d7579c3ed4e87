"""One commit or none: what is there, what differs, and who put it there."""

import shutil

import pytest
from huggingface_hub import HfApi
from published import copy_of

from dpo_pipeline.errors import PublishError


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


def test_a_content_that_the_hub_changed_is_seen(send, hub, monkeypatch):
    entry = hub.entry

    def rotten(path, content):
        return entry(path, content.replace(b"temperature", b"Temperature") + b" ")

    monkeypatch.setattr(hub, "entry", rotten)
    with pytest.raises(PublishError, match="does not hold what was sent"):
        send()
