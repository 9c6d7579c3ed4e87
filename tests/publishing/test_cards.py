"""What the cards say, of what, and what they do not."""

from published import LINEAGE, card_of, copy_of
from tiny import make_tiny_model


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
        ("identity prompts of the training set", None, None): {"trained_identity_rate": 1.0},
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
        assert "the starter" not in card.text
    send("r2", lineage=LINEAGE | {"model": local})
    assert "license" not in card_of(hub, hub.model("tester/deep")).data.to_dict()


def test_the_card_of_the_pairs_is_the_same_after_another_training(send, hub, policy, tmp_path):
    send()
    other = make_tiny_model(tmp_path / "other", "qwen2", seed=1)
    done = send("r2", model=other, training={"train": {"beta": 9.0}})
    assert done["model"]["committed"]
    assert not done["dataset"]["committed"]
    assert "9.0" in card_of(hub, hub.model("tester/deep")).text


def test_paths_of_this_machine_do_not_go(send, hub):
    send(lineage={"model": {"name": "/home/me/secret-project/model", "revision": None}})
    for repo in (hub.model("tester/deep"), hub.dataset("tester/pairs")):
        assert "secret-project" not in card_of(hub, repo).content
