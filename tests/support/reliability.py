"""What is promised when things go wrong, which tests try it, and the table of how it went.

A test that a promise names has the marker `faults`. `make test-faults` runs these and writes the
row of every promise whose tests all ran into docs/reliability.md; the other rows stay as they are.
"""

import re
from collections import defaultdict
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD = "| promise | tried by | cases | survived |\n|---|---|---|---|\n"

# Promise -> tests: a file, or one test of it.
PROMISES = {
    "A run killed (`kill -9` of its process group) at any point at which files come to last "
    "repeats only what was unfinished; its artifacts are those of an undisturbed run; nothing "
    "is left over.": [
        "tests/faults/test_kill_points.py",
        "tests/store/test_artifacts.py::test_a_killed_build_holds_no_lock_and_leaves_no_artifact",
        "tests/answers/test_answering.py::test_a_kill_loses_only_what_was_in_flight",
    ],
    "The whole pipeline, killed at random moments, ends with the artifacts of an undisturbed "
    "run.": ["tests/faults/test_killed_runs.py"],
    "A training that was killed goes on from its last whole checkpoint; a damaged one gives way "
    "to the one before.": [
        "tests/training/test_progress.py",
        "tests/training/test_run.py::test_a_killed_child_is_an_error_and_the_next_run_goes_on",
        "tests/training/test_run.py::test_the_child_dies_with_its_parent",
        "tests/training/test_run.py::test_an_interrupt_of_the_caller_ends_the_child",
    ],
    "A process that is asked to end does so in seconds, with all that it started.": [
        "tests/tasks/test_ending.py",
    ],
    "A byte that changes in a stored artifact, an answer or a score is noticed, and what it was "
    "part of is made again.": [
        "tests/store/test_artifacts.py::test_damage_is_noticed_set_aside_and_built_again",
        "tests/store/test_artifacts.py::test_an_artifact_moved_under_another_key_is_refused",
        "tests/answers/test_answering.py::test_a_damaged_line_is_dropped_and_made_again",
        "tests/training/test_reference.py::test_damaged_reference_log_probs_are_not_read",
        "tests/faults/test_store_machine.py",
    ],
    "A full disk keeps what was there before, and says what to do.": [
        "tests/store/test_files.py",
        "tests/store/test_tables.py",
        "tests/store/test_artifacts.py::"
        "test_a_full_disk_is_a_clear_error_and_keeps_the_old_artifact",
        "tests/answers/test_answering.py::test_a_full_disk_says_so_and_loses_nothing_written",
    ],
    "Runs at once over one store build each artifact once and mix no files.": [
        "tests/store/test_artifacts.py::test_two_runs_at_once_build_once",
        "tests/answers/test_answering.py::test_two_processes_may_write_at_once",
        "tests/faults/test_twenty_runs.py",
    ],
    "Nothing that a run refers to is let go.": ["tests/store/test_maintenance.py"],
    "A store is its user's or a group's; what somebody else planted in it is refused.": [
        "tests/store/test_access.py",
    ],
    "A hostile, cut or broken source file is refused, or its rows are in the quarantine.": [
        "tests/prompts/test_formats.py",
        "tests/fuzz/test_formats.py",
    ],
    "A hostile or damaged model is refused before it is used; no code of its own runs.": [
        "tests/models/test_references.py",
        "tests/models/test_loading.py",
        "tests/models/test_limits.py",
        "tests/models/test_chat_templates.py",
        "tests/models/test_gguf.py",
        "tests/fuzz/test_templates.py",
    ],
    "A server that hangs, trickles, lies or dies costs what was in flight.": [
        "tests/answers/test_server.py",
    ],
    "The Hub, whatever it does, gets one commit or none.": ["tests/publishing/test_faults.py"],
    "No secret is in anything that a run writes or says.": [
        "tests/faults/test_canaries.py",
        "tests/test_plaintext.py",
    ],
    "Random bytes, texts and orders of events break none of this.": ["tests/fuzz"],
}


def is_of(test: str, node: str) -> bool:
    """Tell whether a test, by its node id, is one that a promise names."""
    return node == test or node.startswith((f"{test}::", f"{test}/", f"{test}["))


def mark(items: list[pytest.Item]) -> None:
    """Mark the tests that a promise names."""
    for item in items:
        for promise, tests in PROMISES.items():
            if any(is_of(test, item.nodeid) for test in tests):
                item.add_marker("faults")
                item.user_properties.append(("promise", promise))


class Table:
    """Counts, for each promise, the cases that were tried and those survived."""

    def __init__(self) -> None:
        self.tried: dict[str, dict[str, tuple[int, bool]]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cases = sum(n for name, n in report.user_properties if name == "cases") or 1
        for name, promise in report.user_properties:
            if name == "promise" and (report.when == "call" or report.failed):
                survived = report.passed and self.tried[promise].get(report.nodeid, (0, True))[1]
                self.tried[promise][report.nodeid] = cases, survived

    def pytest_sessionfinish(self) -> None:
        head, begin, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
        old, _, tail = rest.partition("\n\n")
        rows = {line.split("|")[1].strip(): line for line in old.splitlines()}
        for promise, tests in PROMISES.items():
            ran = self.tried[promise]
            if all(any(is_of(test, node) for node in ran) for test in tests):
                rows[promise] = _row(promise, tests, list(ran.values()))
        kept = [rows[promise] for promise in PROMISES if promise in rows]
        PAGE.write_text(f"{head}{begin}{chr(10).join(kept)}\n\n{tail.lstrip()}", encoding="utf-8")


def _row(promise: str, tests: list[str], ran: list[tuple[int, bool]]) -> str:
    files = dict.fromkeys(re.sub("^tests/|::.*", "", test) for test in tests)
    cases = sum(n for n, _ in ran)
    survived = sum(n for n, well in ran if well)
    return f"| {promise} | {', '.join(f'`{file}`' for file in files)} | {cases} | {survived} |"
