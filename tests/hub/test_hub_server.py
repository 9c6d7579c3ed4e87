"""The Hub of the tests behaves as the real one does."""

import pytest
from hub_server import Hub
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError


def test_a_flipped_byte_passes_the_download_and_fails_the_check(hub, model):
    hub.add_model("tester/m", model)
    hub.faults.add("storage", "flip")
    snapshot_download("tester/m")
    assert hub.faults.fired
    found = HfApi().verify_repo_checksums("tester/m", revision="main")
    assert [m["path"] for m in found.mismatches] == ["model.safetensors"]


def test_a_commit_on_an_old_parent_is_refused(hub, model):
    api = HfApi(token=hub.WRITE)
    old = hub.add_model("tester/m", model)
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="tester/m")
    late = {"path_or_fileobj": b"2", "path_in_repo": "a.txt", "repo_id": "tester/m"}
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(**late, parent_commit=old)
    assert hub.read(hub.model("tester/m").tree()["a.txt"]) == b"1"


def test_what_the_hub_holds_survives_it(hub, model):
    commit = hub.add_model("tester/m", model, private=True)
    with Hub(hub.root) as again:
        assert again.model("tester/m").head == commit
        assert again.model("tester/m").private


def test_only_the_owner_with_a_write_token_writes(hub, model):
    hub.add_model("tester/m", model)
    for token in (hub.READ, hub.OTHER, False):
        api = HfApi(token=token)
        with pytest.raises(HfHubHTTPError):
            api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="tester/m")
    assert len(hub.model("tester/m").commits) == 1
