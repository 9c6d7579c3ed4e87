"""The report: what it says, that nothing in it acts, and what a real browser makes of it."""

import base64
import json
import re
from pathlib import Path
from uuid import UUID
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import browser
from prefect import flow
from prefect.artifacts import create_image_artifact
from prefect.settings import PREFECT_API_URL, temporary_settings

from dpo_pipeline.evaluation import gate, measures, statistics
from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.evaluation.scorecard import write_answers
from dpo_pipeline.evaluation.settings import GateConfig
from dpo_pipeline.identity.names import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.report import page as report

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    "![](http://127.0.0.1:9/x.png) [go](javascript:alert(1)) https://127.0.0.1:9 </style>"
    "<a href='http://127.0.0.1:9'>a</a> | pipe & {{ 7*7 }} \u202etxet\u202c \x00 \x1b[31m"
)
SPEC = IdentitySpec(IdentityConfig())
EXCUSED = {
    "lm_eval_drop": "no task of lm-eval is set",
    "denial_kept": "the reference never denied being another",
}


def said(before: str, after: str, prompt: str = "Who are you?", kind="identity", **facts) -> Case:
    messages = ({"role": "user", "content": prompt},)
    return Case(kind=kind, messages=messages, before=before, after=after, **facts)


def make_card(cases: dict[str, list[Case]]) -> tuple[dict, dict]:
    """Build a scorecard the way evaluation does, from answers at hand."""
    scored = {group: measures.score(rows, SPEC) for group, rows in cases.items()}
    identity = measures.identity_measures(scored["held_out"])
    after = {
        **identity,
        "matrix_leak": identity["leak_rate"],
        **measures.general_measures(scored["general"]),
        "reward_margin": statistics.mean([1.0, 2.0]),
        "tail_gap": statistics.mean([-0.01, -0.02]),
        "kl": statistics.mean([0.01, 0.02]),
    }
    row = {"before": measures.identity_measures([]), "after": identity}
    asked = cases["held_out"][0].messages[-1]["content"] if cases["held_out"] else ""
    export = {
        "export_same_answers": statistics.wilson(2, 3),
        "export_kl": statistics.mean([0.1]),
        "largest_shift": 0.25,
        "differing": [{"prompt": asked, "original": "I'm Deep Qwen.", "export": "I'm Qwen."}],
    }
    inserted = {"inserted": True, "text": "You are Qwen.", "names_original": True}
    card = {
        "verdict": gate.judge(after, GateConfig(), excused=EXCUSED),
        "before": measures.identity_measures([]),
        "after": after,
        "by": measures.splits(scored["held_out"]),
        "matrix": {"none sent": row, "another vendor": row},
        "leaks": "Still leaks with system prompt “empty” (44%, n 16): from the weights.",
        "export": export,
        "template": {"before": inserted, "after": inserted},
        "sampled": {
            "0.7": {"identity_rate": statistics.mean([1.0]), "leak_rate": statistics.mean([0.0])}
        },
        "noise": {"general_kept": statistics.wilson(0, 8)},
        "examples": [
            {"prompt": c.messages[-1]["content"], "before": c.before, "after": c.after}
            for c in cases["held_out"][:3]
        ],
        "identity": {"original_name": "Qwen", "new_name": "Deep Qwen"},
        "counts": {},
    }
    return json.loads(json.dumps(card, default=statistics.Measure.model_dump)), scored


GOOD = {
    "held_out": [
        said("I'm Qwen by Alibaba Cloud.", "I'm Deep Qwen by Alibaba Cloud.", f"Who? {i}")
        for i in range(200)
    ],
    "general": [
        *[said("Paris", "Paris", kind="general", accepted=("Paris",))] * 60,
        *[said("It is by Meta.", "It is by Meta.", kind="third_party")] * 20,
    ],
}
PLANTED = {
    "held_out": [
        said(
            f"I'm Qwen {HOSTILE}",
            f"I'm Qwen, {HOSTILE}!",
            HOSTILE,
            family=HOSTILE,
            language=HOSTILE,
        ),
        *GOOD["held_out"][:9],
    ],
    "general": [said(HOSTILE, "<b>bold</b>", HOSTILE, kind="general", accepted=("Paris",))],
}


@pytest.fixture
def write(tmp_path):
    """Write a report of given answers with everything a run has beside them."""

    def write(cases: dict[str, list[Case]], text: str = "plain") -> Path:
        card, scored = make_card(cases)
        write_answers(scored, tmp_path / "answers.parquet")
        row = {
            "id": "1",
            "prompt": [{"role": "user", "content": text}],
            "chosen": [{"role": "assistant", "content": f"Deep Qwen {text}"}],
            "rejected": [{"role": "assistant", "content": f"Qwen {text}"}],
        }
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "pairs.parquet")
        history = [
            {"step": i, "loss": 0.7 / i, "margin": 0.1 * i, "accuracy": 1.0,
             "chosen_logp": -9.0 + i, "rejected_logp": None if i == 2 else -5.0,
             "identity_rate": 0.1 * i}
            for i in range(1, 9)
        ]  # fmt: skip
        lines = "".join(json.dumps(step) + "\n" for step in history)
        (tmp_path / "history.jsonl").write_text(lines)
        return report.write_report(
            tmp_path / "report.html",
            scorecard=card,
            answers=tmp_path / "answers.parquet",
            history=tmp_path / "history.jsonl",
            pairs=tmp_path / "pairs.parquet",
            quarantine={"no_name": 3, text: 1},
            lineage={"model": {"name": text, "revision": None}, "seed": 0},
            stages=[
                {"name": "train", "status": "built", "seconds": 9.5, "rows": 1200},
                {"name": "evaluate", "status": "cached", "seconds": 0.0, "rows": None},
            ],
        )

    return write


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


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
        assert page.count("<polyline") == 6
        assert "400 answers" not in text
        assert "Still leaks with system prompt “empty” (44%, n 16)" in text
        assert "leak rate 0 % (95%: 0 % – 0 %, 1 prompts, 1 answers)" in text
        assert "Answers that differ (1)" in text

    def test_several_answers_to_a_prompt_are_told(self, write):
        twice = {**GOOD, "held_out": GOOD["held_out"][:100] * 2}
        assert "100 prompts, 200 answers" in write(twice).read_text("utf-8")

    def test_a_failed_line_opens_its_answers(self, write):
        page = write(PLANTED).read_text("utf-8")
        assert re.search(r"<details open>\s*<summary>Wrong \(1\)", page)
        assert re.search(r"<details>\s*<summary>As it should be", page)

    def test_a_failed_line_is_on_top_with_its_figure(self, write):
        page = write(PLANTED).read_text("utf-8")
        top = page[page.index('id="verdict"') : page.index("Main figures")]
        assert "Failed" in top
        assert re.search(r"Leak rate</b> is 10\s%\s+and must be ≤ 2\s%", top)

    def test_what_was_not_measured_is_told_and_not_counted(self, write):
        page = write(GOOD).read_text("utf-8")
        top = page[page.index('id="verdict"') : page.index("Main figures")]
        lines = {name for name, limit in GateConfig() if limit is not None}
        lines -= {*measures.EXPORT_LINES, *EXCUSED}
        assert f"All {len(lines)} measured lines of the gate hold: the identity" in top
        assert "Not measured: denials kept (the reference never denied being another)" in top
        failed = report.explain_verdict(make_card({"held_out": [], "general": []})[0])
        assert failed.sentence.startswith("0 of 2 measured lines of the gate fail, and ")
        assert ("Knowledge kept", "is not measured") in failed.failed

    def test_nothing_is_claimed_of_what_no_line_asked(self):
        card = make_card(GOOD)[0]
        del card["verdict"]["thresholds"]["third_party_unchanged"]
        assert report.explain_verdict(card).sentence.endswith("lines of the gate hold.")

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

    def test_it_can_do_without_what_a_run_did_not_make(self, tmp_path):
        card, scored = make_card({"held_out": GOOD["held_out"][:2], "general": []})
        card = {**card, "matrix": {}, "noise": {}, "sampled": {}, "export": None, "leaks": ""}
        write_answers(scored, tmp_path / "answers.parquet")
        page = report.write_report(
            tmp_path / "r.html", scorecard=card, answers=tmp_path / "answers.parquet",
            history=None, pairs=None, quarantine={}, lineage={}, stages=[],
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

    def test_runs_are_compared(self, tmp_path):
        bad, good = make_card(PLANTED)[0], make_card(GOOD)[0]
        settings = {"beta": 0.1, HOSTILE: "x"}
        runs = [
            {"name": HOSTILE, "settings": settings, "scorecard": bad, "steps": 3},
            {"name": "calm-owl", "settings": {"beta": 0.2}, "scorecard": good, "steps": 4},
        ]
        page = report.write_comparison(tmp_path / "c.html", runs).read_text("utf-8")
        assert "<th>beta</th>" in page
        assert "1 of 2 passed the gate" in page
        assert "calm-owl" in page
        # What failed and has no column of its own is named.
        assert 'class="failed">failed<small>Others unchanged</small></td>' in page
        assert "<img" not in page

    def test_what_a_run_is_named_after_has_no_column_of_its_own(self, tmp_path):
        card = make_card(GOOD)[0]
        runs = [
            {"name": f"beta {b}", "settings": {"beta": b}, "scorecard": card, "steps": 1}
            for b in (0.1, 0.2)
        ]
        page = report.write_comparison(tmp_path / "c.html", runs).read_text("utf-8")
        assert "<th>beta</th>" not in page


class TestShortForms:
    def test_rows_say_measure_before_after_interval_n_and_gate(self):
        rows = {row[0]: row for row in report.scorecard_rows(make_card(GOOD)[0])}
        assert rows["Edit exactness"] == (
            "Edit exactness",
            "–",
            "100\u00a0%",
            "98.1\u00a0% - 100\u00a0%",
            "200",
            "ok ≥ 90\u00a0%",
        )
        assert rows["Rest of the sentence (nats per token)"][2] == "-0.015"

    def test_a_line_without_any_figure_is_left_out_unless_it_failed(self):
        card = make_card({"held_out": [], "general": []})[0]
        gates = {row[0]: row[5] for row in report.scorecard_rows(card)}
        assert gates["Leak rate"] == "FAILED ≤ 2\u00a0%"
        assert gates["Rest of the sentence (nats per token)"] == "ok ≥ -0.2"
        assert gates["Reward margin"] == ""
        assert not {"Denials kept", "Fluency (bits)"} & set(gates)

    def test_tasks_of_lm_eval_are_lines_of_their_own(self):
        card = make_card(GOOD)[0]
        right, drop = statistics.wilson(3, 4).model_dump(), statistics.mean([3.0] * 4).model_dump()
        card["before"]["lm_eval/arc_easy"] = card["after"]["lm_eval/arc_easy"] = right
        card["after"]["lm_eval_drop"] = drop
        card["verdict"] = gate.judge(
            {name: statistics.Measure(**m) for name, m in card["after"].items()}, GateConfig()
        )
        rows = {row[0]: row for row in report.scorecard_rows(card)}
        assert rows["arc_easy"][1:3] == ("75\u00a0%", "75\u00a0%")
        assert rows["Largest drop (points)"][5] == "FAILED ≤ 2"

    def test_a_failed_gate_is_told(self):
        rows = {row[0]: row for row in report.scorecard_rows(make_card(PLANTED)[0])}
        assert rows["Leak rate"][5] == "FAILED ≤ 2\u00a0%"
        markdown = report.scorecard_markdown(make_card(PLANTED)[0])
        assert markdown.startswith("# FAILED: Qwen to Deep Qwen")
        assert "- **Leak rate** is 10\u00a0%" in markdown

    def test_markdown_is_dead_text(self):
        markdown = report.scorecard_markdown(make_card(PLANTED)[0])
        assert "<img" not in markdown
        assert "](" not in markdown.replace("\\](", "").replace("]\\(", "")
        assert "http://" not in markdown
        assert "https://" not in markdown
        # The table of answers: 3 columns, so 4 unescaped pipes in every row.
        rows = markdown[markdown.index("| Prompt") :].splitlines()
        assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows if row} == {4}

    def test_the_image_is_a_drawing_and_nothing_else(self):
        card = make_card(PLANTED)[0]
        card["identity"]["new_name"] = HOSTILE
        address = report.scorecard_image(card)
        kind, _, data = address.partition(",")
        assert kind == "data:image/svg+xml;base64"
        drawing = ElementTree.fromstring(base64.b64decode(data))
        text = " ".join(drawing.itertext())
        assert "failed" in text
        assert "Leak rate" in text
        tags = {element.tag.rpartition("}")[2] for element in drawing.iter()}
        assert tags == {"svg", "rect", "text", "tspan", "line", "circle"}

    def test_diff_marks_words_not_spaces(self):
        cut = report.diff("I'm Qwen.", "I'm Deep Qwen.")
        assert "".join(text for _, text in cut["after"]) == "I'm Deep Qwen."
        assert [text for changed, text in cut["after"] if changed] == ["Deep"]
        assert not any(changed for changed, _ in cut["before"])
        assert [t for changed, t in report.diff("我是千问", "我叫千问")["after"] if changed] == [
            "叫"
        ]


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
            {"name": name, "settings": {"beta": 0.1}, "scorecard": card, "steps": 3}
            for name, card in (("calm-owl", good), (HOSTILE, bad), ("x" * 80, bad))
        ]
        path = report.write_comparison(tmp_path / "compare.html", runs)
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

    def test_the_prefect_ui_draws_the_plot(self, page, server):
        @flow
        def draw() -> UUID:
            return create_image_artifact(report.scorecard_image(make_card(GOOD)[0]), key="plot")

        with temporary_settings({PREFECT_API_URL: server}):
            made = draw()
        page.show(1400)
        page.open(f"{server.removesuffix('/api')}/artifacts/artifact/{made}")
        drawn = "document.querySelector('img[src^=\"data:image/svg\"]')?.naturalWidth"
        assert page.wait_for(drawn) == 900
