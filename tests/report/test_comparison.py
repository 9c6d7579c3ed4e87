"""The page that compares runs."""

from cards import GOOD, HOSTILE, PLANTED, make_card

from dpo_pipeline.evaluation import statistics
from dpo_pipeline.evaluation.measures import find
from dpo_pipeline.report.page import Compared, write_comparison


def test_runs_are_compared(tmp_path):
    bad, good = make_card(PLANTED)[0], make_card(GOOD)[0]
    settings = {"beta": 0.1, HOSTILE: "x"}
    runs = [
        Compared(HOSTILE, settings, bad, 3),
        Compared("calm-owl", {"beta": 0.2}, good, 4),
    ]
    page = write_comparison(tmp_path / "c.html", runs).read_text("utf-8")
    assert "<th>beta</th>" in page
    assert "1 of 2 passed the gate" in page
    assert "calm-owl" in page
    assert "<td>2. calm-owl</td>" in page
    # What failed and has no column of its own is named.
    assert (
        'class="failed">failed<small>Leak, sampled</small><small>Others changed</small></td>'
        in page
    )
    assert "<img" not in page
    # Both marks of the frontier, and the worst line of each.
    assert page.count('class="dot line') == 2
    assert find(runs[0].worst[1]).name in page


def test_what_passes_comes_before_what_fails_and_then_the_worst_line_decides():
    bad, good = make_card(PLANTED)[0], make_card(GOOD)[0]
    near = good.model_copy(update={"after": good.after | {"kl": statistics.mean([0.029, 0.029])}})
    runs = [
        Compared(name, {}, card, 1) for name, card in zip("abc", (bad, near, good), strict=True)
    ]
    assert [run.name for run in sorted(runs, key=lambda r: r.merit, reverse=True)] == [
        "c",
        "b",
        "a",
    ]


def test_what_ended_early_is_told(tmp_path):
    runs = [Compared("one", {"beta": 0.1}, make_card(GOOD)[0], 1)]
    page = write_comparison(tmp_path / "c.html", runs, {"beta 9": HOSTILE}).read_text("utf-8")
    assert "1 ended early" in page
    assert "<td>beta 9</td>" in page
    assert "<img" not in page


def test_what_a_run_is_named_after_has_no_column_of_its_own(tmp_path):
    card = make_card(GOOD)[0]
    runs = [Compared(f"beta {b}", {"beta": b}, card, 1) for b in (0.1, 0.2)]
    page = write_comparison(tmp_path / "c.html", runs).read_text("utf-8")
    assert "<th>beta</th>" not in page
