"""Publishing under every fault of the network and the Hub: one commit, or none."""

import json

import pytest
from hub_server import Hub
from published import contents

from dpo_pipeline.errors import PublishError

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
