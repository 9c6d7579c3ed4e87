"""What is promised when things go wrong, which tests try it, and the table of how it went.

A test that a promise names has the marker `faults`. `make test-faults` runs these, or those that
`ARGS="-k ..."` picks, and remembers how each went, in the cache of pytest. The row of every promise
whose tests all ran by now goes into docs/reliability.md; the other rows stay as they are.
"""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD = "| promise | tried by | cases | survived |\n|---|---|---|---|\n"
KNOWN, RAN = "faults/known", "faults/ran"  # of the cache: all tests, and how each last went

# Promise -> tests: a file, or one test of it.
PROMISES = {
    # What is killed, damaged or full.
    "A run killed (`kill -9` of its process group) at any point at which files come to last "
    "repeats only what was unfinished; its artifacts are those of an undisturbed run; nothing "
    "is left over.": [
        "tests/faults/test_kill_points.py",
        "tests/store/test_artifacts.py::test_a_killed_build_holds_no_lock_and_leaves_no_artifact",
        "tests/answers/test_answering.py::test_a_kill_loses_only_what_was_in_flight",
    ],
    "The whole pipeline, killed at random moments and at every named point, ends with the "
    "artifacts of an undisturbed run.": ["tests/faults/test_killed_runs.py"],
    "On object storage too, what was killed is not read, and what it had made is not lost.": [
        "tests/store/test_objects.py::test_a_kill_in_an_upload_leaves_nothing_that_is_read",
        "tests/store/test_objects.py::"
        "test_what_was_built_and_not_published_is_published_by_the_next_run",
        "tests/store/test_objects.py::"
        "test_answers_that_a_killed_writer_had_not_sent_are_sent_by_the_next",
    ],
    "A training that was killed goes on from its last whole checkpoint; a damaged one gives way "
    "to the one before.": [
        "tests/training/test_progress.py::test_an_interrupted_run_goes_on_from_its_checkpoint",
        "tests/training/test_progress.py::test_a_damaged_checkpoint_gives_way_to_the_older_one",
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
        "tests/training/test_retention.py::test_states_are_kept_and_damage_is_noticed",
        "tests/faults/test_store_machine.py",
    ],
    "A disk that is full, or may not be written, keeps what was there before; every stage says "
    "which path it was and what to do, training with its checkpoints too.": [
        "tests/faults/test_disks.py",
        "tests/store/test_files.py",
        "tests/store/test_tables.py",
        "tests/store/test_artifacts.py::"
        "test_a_full_disk_is_a_clear_error_and_keeps_the_old_artifact",
        "tests/store/test_artifacts.py::test_who_may_not_read_or_write_is_told_where",
        "tests/answers/test_answering.py::test_a_full_disk_says_so_and_loses_nothing_written",
        "tests/tasks/test_runtime.py::test_a_temporary_server_that_cannot_write_is_told",
        "tests/training/test_progress.py::test_a_full_disk_says_what_did_not_fit",
        "tests/training/test_progress.py::test_a_disk_that_fills_costs_no_checkpoint",
    ],
    "A run that fails leaves its story: why, at which stage, the rows that were refused and their "
    "numbers; and no empty folder.": [
        "tests/flows/test_failing_runs.py",
        "tests/tasks/test_ending.py::test_a_run_ends_with_its_server_whatever_it_waits_for",
        "tests/tasks/test_ending.py::test_a_run_that_is_cancelled_ends_and_says_so",
        "tests/prompts/test_quarantine.py::test_too_many_bad_rows_stop_with_the_reasons",
        "tests/pairs/test_dataset.py::test_too_low_a_yield_stops_with_the_reasons",
    ],
    # What runs at once, and what hidden things decide.
    "Runs at once over one store build each artifact once and mix no files.": [
        "tests/store/test_artifacts.py::test_two_runs_at_once_build_once",
        "tests/store/test_objects.py::"
        "test_two_processes_that_race_for_a_key_end_up_with_one_artifact",
        "tests/answers/test_answering.py::test_two_processes_may_write_at_once",
        "tests/faults/test_twenty_runs.py",
    ],
    "Nothing that a run refers to is let go.": ["tests/store/test_maintenance.py"],
    "The same inputs give the same bytes of every artifact, whatever the order of sets "
    "(PYTHONHASHSEED), the batches and the shards.": [
        "tests/flows/test_reproducible.py",
        "tests/evaluation/test_reproducible.py",
        "tests/pairs/test_writing.py::test_the_same_rows_make_the_same_bytes_in_row_groups",
        "tests/answers/test_decoding.py::test_answers_do_not_depend_on_batch_order_or_engine",
    ],
    # Who may be hostile: SECURITY.md.
    "A hostile, cut or broken source file is refused, or its rows are in the quarantine.": [
        "tests/prompts/test_formats.py",
        "tests/prompts/test_quarantine.py",
    ],
    "A damaged or hostile config is refused whole, with its line; no number that a database cannot "
    "hold gets in.": [
        "tests/store/test_strict_yaml.py",
        "tests/flows/test_settings.py::test_a_damaged_file_is_refused_and_no_part_of_it_dropped",
        "tests/test_config.py::test_a_number_that_databases_cannot_hold_is_refused",
    ],
    "A hostile or damaged model is refused before it is used; no code of its own runs, and none "
    "goes into a policy or to the Hub.": [
        "tests/models/test_references.py",
        "tests/models/test_loading.py",
        "tests/models/test_limits.py",
        "tests/models/test_chat_templates.py::test_a_hostile_template_stays_in_its_sandbox",
        "tests/models/test_gguf.py",
        "tests/training/test_child.py::test_code_of_the_reference_is_no_part_of_the_policy",
        "tests/publishing/test_uploads.py::test_only_known_files_go_and_no_pickle",
        "tests/publishing/test_uploads.py::test_links_stop_everything",
    ],
    "A server that hangs, trickles, lies or dies costs what was in flight.": [
        "tests/answers/test_server.py",
    ],
    "A key is sent to its own host alone, and no config file says otherwise.": [
        "tests/answers/test_server.py::test_a_key_goes_to_its_own_host_alone",
        "tests/answers/test_server.py::test_a_key_over_two_lines_is_refused_unseen",
        "tests/answers/test_settings.py",
        "tests/test_config.py::test_a_file_does_not_say_who_gets_the_key",
    ],
    "No secret is in anything that a run writes, says or publishes.": [
        "tests/faults/test_canaries.py",
        "tests/test_plaintext.py",
        "tests/test_config.py::test_a_token_in_the_wrong_place_is_refused_and_not_repeated",
        "tests/publishing/test_uploads.py::test_the_token_is_in_nothing_that_is_written_or_sent",
        "tests/publishing/test_uploads.py::test_secrets_stop_everything",
        "tests/publishing/test_uploads.py::test_a_secret_in_a_row_stops_everything",
    ],
    "A store is its user's or a group's; what somebody else planted in it is refused.": [
        "tests/store/test_access.py",
    ],
    "What lies in a bucket is verified before it is used, and leads nowhere else.": [
        "tests/store/test_objects.py::test_damage_there_is_noticed_set_aside_and_made_again",
        "tests/store/test_objects.py::test_a_damaged_copy_is_brought_again",
        "tests/store/test_objects.py::test_a_manifest_that_leads_out_of_the_cache_is_refused",
    ],
    "The Prefect servers that it starts are closed to web pages and to other users.": [
        "tests/scripts/test_server.py",
        "tests/tasks/test_runtime.py::test_the_temporary_server_answers_its_own_process_only",
    ],
    "Text that is shown is text: in a terminal, a page, a card, a table of the UI.": [
        "tests/test_plaintext.py::test_what_a_terminal_acts_on_is_spelt_out",
        "tests/report/test_page.py::TestPage::test_nothing_planted_becomes_markup",
        "tests/report/test_page.py::TestBrowser::test_planted_markup_does_nothing",
        "tests/report/test_markdown.py",
        "tests/publishing/test_cards.py::test_answers_in_a_card_are_only_text",
    ],
    "Reading a text takes time in proportion to its length.": [
        "tests/identity/test_claims.py::test_long_noise_is_read_in_no_time",
        "tests/evaluation/test_correctness.py::test_long_noise_is_read_in_no_time",
    ],
    "Random bytes, texts and orders of events break none of this.": [
        "tests/fuzz",
        "tests/faults/test_store_machine.py",
    ],
    # What a result proves.
    "The gate lets nothing through that was planted: leaks in any form, claims of others, denials, "
    "guesses, also in sampled answers.": [
        "tests/evaluation/test_gate.py",
        "tests/evaluation/test_correctness.py",
        "tests/identity/test_disguises.py",
        "tests/identity/test_negations.py",
        "tests/identity/test_claims.py",
        "tests/identity/test_mentions.py::TestLabelledAnswers",
    ],
    "A loss is the one that its name says, and an SFT term is that of its whole step.": [
        "tests/training/test_loss.py::test_equals_trl_on_the_same_batch",
        "tests/training/test_shared_prefixes.py::test_every_loss_of_trl_stays_its_own",
        "tests/training/test_trainer.py::"
        "test_both_engines_and_any_row_budget_reach_the_same_weights",
    ],
    "The Hub, whatever it does, gets one commit or none.": ["tests/publishing/test_faults.py"],
}


def is_of(test: str, node: str) -> bool:
    """Tell whether a test, by its node id, is one that a promise names."""
    return node == test or node.startswith((f"{test}::", f"{test}/", f"{test}["))


def mark(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that a promise names."""
    for item in items:
        if any(is_of(test, item.nodeid) for tests in PROMISES.values() for test in tests):
            item.add_marker("faults")
    if config.getoption("--reliability"):  # of several test processes, each writes the same
        config.cache.set(KNOWN, [item.nodeid for item in items])


class Table:
    """How many cases each test tried, and how many of them it survived."""

    def __init__(self, cache: pytest.Cache) -> None:
        self.cache = cache
        self.ran: dict[str, list[int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cases = sum(n for name, n in report.user_properties if name == "cases") or 1
        if report.failed:
            self.ran[report.nodeid] = [cases, 0]
        elif report.skipped:
            self.ran[report.nodeid] = [0, 0]
        elif report.when == "call":
            self.ran[report.nodeid] = [cases, cases]

    def pytest_sessionfinish(self) -> None:
        known = self.cache.get(KNOWN, [])
        files = {node.partition("::")[0] for node in known}
        before = {
            node: how
            for node, how in self.cache.get(RAN, {}).items()
            if node in known or node.partition("::")[0] not in files
        }
        ran = {**before, **self.ran}
        self.cache.set(RAN, ran)
        head, begin, rest = PAGE.read_text(encoding="utf-8").partition(HEAD)
        old, _, tail = rest.partition("\n\n")
        rows = {line.split("|")[1].strip(): line for line in old.splitlines()}
        for promise, tests in PROMISES.items():
            of = {node for node in (*known, *ran) if any(is_of(test, node) for test in tests)}
            named = all(any(is_of(test, node) for node in of) for test in tests)
            if named and of <= ran.keys():
                rows[promise] = _row(promise, tests, [ran[node] for node in sorted(of)])
        kept = [rows[promise] for promise in PROMISES if promise in rows]
        PAGE.write_text(f"{head}{begin}{chr(10).join(kept)}\n\n{tail.lstrip()}", encoding="utf-8")


def _row(promise: str, tests: list[str], ran: list[list[int]]) -> str:
    files = dict.fromkeys(re.sub("^tests/|::.*", "", test) for test in tests)
    cases, survived = (sum(numbers) for numbers in zip(*ran, strict=True))
    return f"| {promise} | {', '.join(f'`{file}`' for file in files)} | {cases} | {survived} |"
