"""What must not go: tokens, keys, links."""

import pickle
import traceback

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from published import copy_of, said, scorecard

from dpo_pipeline.errors import PublishError


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


def test_links_stop_everything(send, hub, policy, tmp_path):
    bad = copy_of(policy, tmp_path / "bad")
    (bad / "vocab.txt").symlink_to("/etc/hostname")
    with pytest.raises(PublishError, match=r"vocab\.txt is a link"):
        send(model=bad)
    assert not hub.repos
