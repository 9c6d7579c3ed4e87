"""Every promise is tried by tests that are there, and the page has no row of another."""

import re

from reliability import HEAD, PAGE, PROMISES
from workplace import ROOT


def test_every_test_that_a_promise_names_is_there():
    for test in {test for tests in PROMISES.values() for test in tests}:
        file, *names = test.split("::")
        place = ROOT / file
        files = [place] if place.is_file() else list(place.glob("test_*.py"))
        assert files, test
        source = "".join(path.read_text("utf-8") for path in files)
        assert all(re.search(rf"(def|class) {name}\b", source) for name in names), test


def test_the_page_has_rows_of_these_promises_alone():
    table = PAGE.read_text("utf-8").partition(HEAD)[2].partition("\n\n")[0]
    assert {row.split("|")[1].strip() for row in table.splitlines()} <= PROMISES.keys()
