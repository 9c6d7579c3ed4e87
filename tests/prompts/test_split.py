"""No wording is on both sides of the split."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_rows import TWO, Rows, jsonl, numbered, prepare

from dpo_pipeline.prompts.split import normalise, same_wording, shingles

WORDS = st.lists(
    st.sampled_from([*"你是谁", "who", "are", "you", "what", "is", "name"]), max_size=9
)


def test_duplicates_are_counted_and_never_straddle_the_split(tmp_path: Path) -> None:
    rows: Rows = [
        {"prompt": "Who are you?", "split": "train"},
        {"prompt": "  WHO are  you？！", "split": "Validation "},
        {"prompt": "who are you", "split": "train"},
        {"prompt": "What is your name?", "split": ""},
        {"prompt": "Please could you now tell me what exactly your name is", "split": "train"},
        {"prompt": "please could you now tell me what exactly your name is then", "split": "test"},
    ]
    _, prompts, quarantine = prepare(jsonl(tmp_path / "rows.jsonl", rows))
    assert [(p["source_row"], p["split"]) for p in prompts] == [
        (1, "held_out"), (3, "train"), (5, "held_out"),
    ]  # fmt: skip
    assert [(q["source_row"], q["reason"], q["detail"]) for q in quarantine] == [
        (0, "duplicate", "of row 1"),
        (2, "duplicate", "of row 1"),
        (4, "near_duplicate_of_held_out", "row 5"),
    ]


def test_the_same_question_in_another_context_is_another_prompt_on_the_same_side(
    tmp_path: Path,
) -> None:
    rows: Rows = []
    for n in range(40):
        ask = {"role": "user", "content": f"{n} {n + 100} who are you?"}
        rows += [{"messages": [ask]}, {"messages": [*TWO, ask]}]
    _, prompts, quarantine = prepare(jsonl(tmp_path / "rows.jsonl", rows), held_out=0.3)
    assert not quarantine
    sides = [p["split"] for p in prompts]
    assert sides[::2] == sides[1::2]
    assert sides.count("held_out") == 24


def test_one_and_the_same_split_everywhere_tells_nothing(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in numbered(20)]
    counts, *_ = prepare(jsonl(tmp_path / "rows.jsonl", rows), held_out=0.2)
    assert (counts["train"], counts["held_out"]) == (16, 4)


def test_split_and_sample_follow_the_seed_alone(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", numbered(60))
    _, prompts, _ = prepare(path, limit=20)
    assert prepare(path, limit=20)[1] == prompts
    assert prepare(path, limit=20, seed=1)[1] != prompts
    counts, more, _ = prepare(path, limit=30)
    assert counts["sampled_out"] == 30
    assert {p["id"] for p in prompts} <= {p["id"] for p in more}
    assert [p["source_row"] for p in more] == sorted(p["source_row"] for p in more)
    out = sorted(tmp_path.glob("out*"))
    again = [(folder / "prompts.parquet").read_bytes() for folder in out[:2]]
    assert again[0] == again[1]


def test_a_small_sample_keeps_both_sides(tmp_path: Path) -> None:
    rows = [row | {"split": "test" if n == 7 else "train"} for n, row in enumerate(numbered(50))]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    for seed in range(5):
        counts, *_ = prepare(path, limit=2, seed=seed)
        assert (counts["train"], counts["held_out"]) == (1, 1)
    path = jsonl(tmp_path / "plain.jsonl", numbered(3))
    assert prepare(path)[0]["held_out"] == 1


@settings(deadline=None, max_examples=200)
@given(st.lists(WORDS.map(" ".join), max_size=25), st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_groups_equal_those_of_every_pair_compared(texts: list[str], threshold: float) -> None:
    found = same_wording(texts, threshold)
    expected = list(range(len(texts)))
    for _ in texts:
        for i, a in enumerate(texts):
            for j, b in enumerate(texts):
                mine, other = shingles(a), shingles(b)
                if a == b or len(mine & other) >= threshold * len(mine | other):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert found == expected


def test_normalising_folds_what_makes_no_other_question() -> None:
    alike: Callable[[str, str], bool] = lambda a, b: normalise(a) == normalise(b)  # noqa: E731
    assert alike("  Who ARE\tyou？！ ", "who are you")
    assert alike("ＱＷＥＮ", "qwen")
    assert alike("What's your name?", "Whats your name")
    assert alike("What’s", "What's")
    assert not alike("???", "!!!")
    assert not alike("Who are you", "Who are you 2")


def test_a_long_run_of_marks_is_read_once() -> None:
    marks = "!" * 1_000_000  # by a pattern that starts anew at each of them: hours
    assert normalise(f"{marks}a{marks}") == f"{marks}a"
    assert normalise(marks) == marks
