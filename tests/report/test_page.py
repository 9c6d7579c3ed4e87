"""The report: what it says, that nothing in it acts, and what a real browser makes of it."""

import re

import pytest
from browser import browser
from cards import CENSUS, GOOD, HOSTILE, PLANTED, make_card

from dpo_pipeline.evaluation.scorecard import write_answers
from dpo_pipeline.report.page import Compared, write_comparison, write_report


class TestPage:
    def test_it_says_what_a_release_manager_asks(self, write):
        page = write(GOOD).read_text("utf-8")
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
        for expected in (
            "Passed", "Edit exactness", "Who? 0", "95%",
            "another vendor", "Reward margin", "1,200 rows", "no_name", "model.revision", "9.5 s",
        ):  # fmt: skip
            assert expected in text, expected
        assert "<ins>Deep</ins>" in page
        assert page.count("<polyline") == 10
        assert "400 answers" not in text
        assert "Still leaks with system prompt “empty” (44%, n 16)" in text
        assert "leak rate 0 % (95%: 0 % – 0 %, 1 prompts, 1 answers)" in text
        assert "Answers that differ (1)" in text

    def test_several_answers_to_a_prompt_are_told(self, write):
        twice = {**GOOD, "held_out": GOOD["held_out"][:100] * 2}
        assert "100 prompts, 200 answers" in write(twice).read_text("utf-8")

    def test_identity_and_kl_are_drawn_over_the_strength_of_the_edit(self, write):
        page = write(GOOD).read_text("utf-8")
        chart = page[page.index("By strength of the edit") :]
        # From half strength, lowest on the left, to the whole edit on the right.
        assert 'points="0.00,50.00 100.00,0.00"' in chart
        assert "<span>strength 1</span>" in chart
        assert "KL by strength (nats per token)" in chart
        assert 'points="0.00,100.00 100.00,0.00"' in chart

    def test_a_failed_line_opens_its_answers(self, write):
        page = write(PLANTED).read_text("utf-8")
        assert re.search(r"<details open>\s*<summary>Wrong \(1\)", page)
        assert re.search(r"<details>\s*<summary>As it should be", page)

    def test_a_failed_line_is_on_top_with_its_figure(self, write):
        page = write(PLANTED).read_text("utf-8")
        top = page[page.index('id="verdict"') : page.index("Main figures")]
        assert "Failed" in top
        assert re.search(r"Leak rate</b> is 10\s%\s+and must be ≤ 1\s%", top)

    def test_it_needs_nothing_but_itself(self, write):
        page = write(GOOD).read_text("utf-8")
        assert not re.search(r"https?:|//\w|url\(|@import|<script|<link|<img| style=| on\w+=", page)
        assert "default-src 'none'" in page

    def test_nothing_planted_becomes_markup(self, write):
        page = write(PLANTED, HOSTILE).read_text("utf-8")
        assert "<img" not in page
        assert "<script" not in page
        assert "<b>bold" not in page
        assert page.count("</style>") == 1
        assert "{{ 7*7 }}" in page
        assert "\u202e" not in page
        assert "\x00" not in page
        assert "U+202E" in page

    def test_it_says_whom_the_reference_claimed_to_be(self, write):
        page = write(PLANTED).read_text("utf-8")
        assert "<td>neutral</td><td>en</td><td>John 50%</td><td>none</td><td>25%</td>" in page
        assert "“You are Qwen.” (named Qwen, made by nobody named)" in page

    def test_it_can_do_without_what_a_run_did_not_make(self, tmp_path):
        card, scored = make_card({"held_out": GOOD["held_out"][:2], "general": []})
        nothing = {"matrix": {}, "noise": {}, "sampled": {}, "export": None, "leaks": ""}
        card = card.model_copy(update=nothing)
        write_answers(scored, tmp_path / "answers.parquet")
        page = write_report(
            tmp_path / "r.html", scorecard=card, census=CENSUS,
            answers=tmp_path / "answers.parquet", history=None, pairs=None, quarantine={},
            lineage={}, stages=[],
        ).read_text("utf-8")  # fmt: skip
        for missing in (
            "Quarantine",
            "Lineage",
            "Training",
            "Cost",
            "system prompts",
            "The export",
        ):
            assert f"<h2>{missing}" not in page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.slow
class TestBrowser:
    @pytest.mark.parametrize("cases", [GOOD, PLANTED], ids=["good", "planted"])
    def test_opens_quietly_and_shows_the_verdict(self, page, write, cases):
        path = write(cases, HOSTILE)
        page.open(path.as_uri())
        assert page.complaints == []
        assert page.requests == [path.as_uri()]
        verdict = page.ask("document.querySelector('#verdict strong').innerText")
        assert verdict == ("Passed" if cases is GOOD else "Failed")
        assert page.ask("document.title").startswith("Qwen to Deep Qwen")
        # The style applies under the page's own content policy.
        assert page.ask("getComputedStyle(document.querySelector('.tile')).borderRadius") == "12px"

    def test_planted_markup_does_nothing(self, page, write):
        page.open(write(PLANTED, HOSTILE).as_uri())
        page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.ask("document.querySelectorAll('img, script, a, iframe, object').length") == 0
        assert "owned" not in page.ask("document.title")
        assert "onerror" in page.ask("document.body.innerText")
        assert page.complaints == []

    @pytest.mark.parametrize("width", [360, 768, 1400])
    @pytest.mark.parametrize(
        ("cases", "scheme"), [(GOOD, "light"), (PLANTED, "dark")], ids=["good", "planted"]
    )
    def test_fits_every_screen(self, page, write, width, cases, scheme):
        page.show(width, scheme)
        page.open(write(cases, HOSTILE).as_uri())
        page.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.ask("document.documentElement.scrollWidth") <= width
        light = page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
        assert light == (scheme == "light")

    def test_the_comparison_opens_quietly_and_fits(self, page, tmp_path):
        bad, good = make_card(PLANTED)[0], make_card(GOOD)[0]
        runs = [
            Compared(name, {"beta": 0.1}, card, 3)
            for name, card in (("calm-owl", good), (HOSTILE, bad), ("x" * 80, bad))
        ]
        path = write_comparison(tmp_path / "compare.html", runs)
        page.show(360)
        page.open(path.as_uri())
        assert page.complaints == []
        assert page.requests == [path.as_uri()]
        assert page.ask("document.documentElement.scrollWidth") <= 360
        assert page.ask("document.querySelectorAll('img, script, a').length") == 0

    def test_prints_dark_ink_on_white(self, page, write):
        page.show(800, "dark", media="print")
        page.open(write(GOOD).as_uri())
        assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.ask("getComputedStyle(document.body).color") == "rgb(35, 39, 43)"

    def test_prints_what_is_folded_on_screen(self, page, write):
        said = "document.querySelector('details:not([open]) .said')"
        drawn = f"{said}.checkVisibility() && {said}.getBoundingClientRect().height > 0"
        for media, shown in (("screen", False), ("print", True)):
            page.show(800, "light", media=media)
            page.open(write(GOOD).as_uri())
            assert page.ask(drawn) == shown
