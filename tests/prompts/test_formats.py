"""Files of every format give their rows; a row that cannot be read is told, not lost."""

import csv
import json
import struct
import tracemalloc
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prompt_rows import ANSWER, SHAPES, TURNS, jsonl, numbered, other, prepare

from dpo_pipeline.errors import DataError
from dpo_pipeline.prompts import apart, formats, sources
from dpo_pipeline.prompts.columnar import file_rows
from dpo_pipeline.prompts.formats import READERS
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.sources import read_source, resolve_source


@pytest.mark.parametrize(
    ("shape", "suffix"),
    [*product(SHAPES, (".json", ".jsonl")), ("conversations", ".parquet"), ("alpaca", ".arrow")],
)
def test_reads_every_shape_from_every_format(tmp_path: Path, shape: str, suffix: str) -> None:
    path, rows = tmp_path / f"rows{suffix}", [SHAPES[shape], other(shape)]
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        jsonl(path, rows)
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with pa.ipc.new_stream(path, (table := pa.Table.from_pylist(rows)).schema) as stream:
            stream.write_table(table)
    counts, (prompt, _), quarantine = prepare(path)
    assert counts["shape"] == shape
    assert not quarantine
    assert [(turn["role"], turn["content"]) for turn in prompt["messages"]] == TURNS
    assert prompt["given_chosen"] == ANSWER
    assert (prompt["turns"], prompt["source_row"]) == (2, 0)
    assert (prompt["family"], prompt["language"]) == ("multi_turn", "en")


def test_reads_flat_shapes_from_csv_and_tsv(tmp_path: Path) -> None:
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        path = tmp_path / f"rows{suffix}"
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerows(
                [("query", "response"), ("Who, then,\n\tare you?", "{{name}}"), ("你是谁", "")]
            )
        _, prompts, _ = prepare(path)
        assert prompts[0]["messages"] == [{"role": "user", "content": "Who, then,\n\tare you?"}]
        assert [prompt["given_chosen"] for prompt in prompts] == ["Deep Qwen", None]
        assert prompts[1]["language"] == "zh"


def test_reads_the_other_json_and_arrow_layouts(tmp_path: Path) -> None:
    rows = numbered(3)
    table = pa.Table.from_pylist(rows)
    (tmp_path / "wrapped.json").write_text(json.dumps({"data": rows}))
    jsonl(tmp_path / "lines.json", rows)
    with pa.ipc.new_file(tmp_path / "file.feather", table.schema) as file:
        file.write_table(table)
    for name in ("wrapped.json", "lines.json", "file.feather"):
        found = read_source(resolve_source(PromptsConfig(source=str(tmp_path / name))), "train")
        assert list(found) == list(enumerate(rows)), name


def test_a_row_may_itself_be_the_list_of_messages(tmp_path: Path) -> None:
    """As nanochat's identity conversations are; sixty of them are enough."""
    reply = [{"role": "assistant", "content": "I am <NAME>."}]
    rows = [[{"role": "user", "content": row["prompt"]}, *reply] for row in numbered(60)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for path in (jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "rows.json"):
        counts, prompts, quarantine = prepare(path)
        assert (counts["shape"], counts["rows"], len(quarantine)) == ("messages", 60, 0)
        assert 0 < counts["held_out"] < counts["train"]
        assert prompts[7]["messages"] == rows[7][:1]
        assert prompts[7]["given_chosen"] == "I am Deep Qwen."
    bad = jsonl(tmp_path / "bad.jsonl", [*rows, ["Who are you?"], []])
    assert prepare(bad)[0]["reasons"] == {"wrong_type": 2}


def test_a_json_object_may_hold_splits(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.json", numbered(7)
    splits = {"train": rows[:4], "dev": rows[4:5], "test": rows[5:], "tags": ["x"]}
    path.write_text(json.dumps(splits))
    _, prompts, _ = prepare(path)
    assert [p["split"] for p in prompts] == ["train"] * 4 + ["held_out"] * 3
    assert [p["source_row"] for p in prompts] == list(range(7))
    path.write_text(json.dumps({**splits, "train_2": rows}))
    with pytest.raises(DataError, match="rows under 'train_2'"):
        prepare(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'"who are you?"', "holds str 'who are you\\?'; expected a list of rows"),
        (b"null", "holds NoneType None"),
        (b'{"prompts": [{"prompt": "who?"}]}', r"found \['prompts'\]"),
        ('[{"prompt": "who?"}]'.encode("utf-16"), "is UTF-16; save it as UTF-8"),
    ],
)
def test_json_that_holds_no_rows_says_what_it_holds(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected):
        prepare(path)


def test_broken_lines_and_bytes_leave_the_other_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = b"".join(json.dumps(row).encode() + b"\n" for row in numbered(6))
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "first one?"}\n{"prompt": "cut\n\n{"prompt": "byte \xff here"}\n'
        b'"text"\n' + good + b"[" * 100_000 + b"\n"
    )
    _, prompts, quarantine = prepare(path)
    assert len(prompts) == 7
    assert [(row["source_row"], row["reason"]) for row in quarantine] == [
        (1, "broken_row"),
        (3, "invalid_text"),
        (4, "wrong_type"),
        (11, "broken_row"),
    ]
    assert "line 2" in quarantine[0]["detail"]
    assert quarantine[0]["row"] == '{"prompt": "cut\n'


def test_invalid_bytes_in_parquet_and_csv(tmp_path: Path) -> None:
    texts = [b"who are you?", b"caf\xe9?", b"what is your name?"]
    raw = pa.Array.from_buffers(pa.string(), 3, pa.array(texts).buffers())
    pq.write_table(pa.table({"prompt": raw}), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_bytes(b"prompt\n" + b"\n".join(texts) + b"\na,b\n")
    for name, reasons in (("rows.parquet", 1), ("rows.csv", 2)):
        counts, prompts, quarantine = prepare(tmp_path / name)
        assert len(prompts) == 2
        assert len(quarantine) == reasons
        assert quarantine[0]["reason"] == "invalid_text"
        assert counts["reasons"].get("broken_row", 0) == reasons - 1


def test_a_broken_row_of_csv_keeps_its_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    good = "".join(f"{row['prompt']},x\n" for row in numbered(6))
    path.write_text(
        f'prompt,other\n{good}"cut, here\nwho?,x\n"fine?",y\na,b,c\n{"w" * 200_000},z\n'
    )
    _, prompts, quarantine = prepare(path)
    assert [len(p["messages"][0]["content"]) for p in prompts][6:] == [200_000]
    assert [row["row"] for row in quarantine] == ['"cut, here\nwho?,x\n"fine?",y\n', "a,b,c\n"]
    assert "lines 8 to 10" in quarantine[0]["detail"]


def test_a_csv_quote_that_never_closes_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,other\n"two\nlines, ""said""",x\n"a\nb","cut\n' + "who?,x\n" * 30_000)
    for more in ("", "who?,x\n" * 30_000):  # longer than any row
        with path.open("a") as file:
            file.write(more)
        with pytest.raises(DataError, match="opens in line 5 is never closed"):
            prepare(path)


def test_two_csv_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,other,prompt,,\nwho?,x,y\n")
    with pytest.raises(DataError, match="more than one column 'prompt'"):
        prepare(path)


@pytest.mark.parametrize("name", ["a.json", "b.jsonl", "c.csv", "d.parquet"])
def test_an_empty_source_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("")
    if name.endswith("parquet"):
        pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match=f"{name} has no rows"):
        prepare(path)


def test_cut_or_false_files_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(numbered(50))
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(tmp_path / "b.arrow", table.schema) as stream:
        for batch in table.to_batches(max_chunksize=10):
            stream.write_batch(batch)
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema) as file:
        file.write_table(table)
    (text := tmp_path / "d.json").write_text(json.dumps(numbered(50)))
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for keep in (len(whole) // 2, len(whole) - 4, 3):
            path.write_bytes(whole[:keep])
            source = resolve_source(PromptsConfig(source=str(path)))
            with pytest.raises(DataError):
                list(read_source(source, "train") if path == text else file_rows(str(path)))


def hostile_arrow(path: Path, column: pa.Array, offsets: list[int], instead: list[int]) -> Path:
    """Write a column to an Arrow file, with other offsets than its own."""
    table = pa.table({"prompt": column})
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    old, new = (struct.pack(f"<{len(many)}i", *many) for many in (offsets, instead))
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


TEXTS = pa.array(["hello", "world"])


@pytest.mark.parametrize(
    ("column", "offsets", "instead"),
    [
        (TEXTS, [0, 5, 10], [0, 1 << 30, 10]),
        (TEXTS, [0, 5, 10], [0, -5, 10]),
        (TEXTS, [0, 5, 10], [9, 5, 1 << 30]),
        (pa.array([["a"], ["b", "c"]]), [0, 1, 3], [0, 1 << 28, 3]),
        (pa.array([{"content": "hello"}, {"content": "world"}]), [0, 5, 10], [0, 1 << 30, 10]),
    ],
)
def test_offsets_that_point_out_of_their_buffers_are_refused(tmp_path, column, offsets, instead):
    path = hostile_arrow(tmp_path / "rows.arrow", column, offsets, instead)
    with pytest.raises(DataError, match=r"rows\.arrow cannot be read"):
        list(READERS[".arrow"](path))


DEEP = json.loads("[" * 900 + "]" * 900)


@pytest.mark.parametrize("name", ["a.json", "b.jsonl", "c.csv", "d.parquet"])
def test_a_row_that_is_too_large_is_in_quarantine_and_the_others_go_on(tmp_path, name):
    path, large = tmp_path / name, {"prompt": "who " * 100_000}
    rows = [*numbered(6), large, {"prompt": "the last one?"}]
    if path.suffix == ".json":
        path.write_text(json.dumps([*rows, {"prompt": DEEP}]))
    elif path.suffix == ".jsonl":
        jsonl(path, [*rows, {"prompt": DEEP}])
    elif path.suffix == ".csv":
        path.write_text("".join(f"{row['prompt']}\n" for row in [{"prompt": "prompt"}, *rows]))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    _, prompts, quarantine = prepare(path)
    assert [prompt["source_row"] for prompt in prompts] == [*range(6), 7]
    assert [row["source_row"] for row in quarantine] == [6, 8][: len(quarantine)]
    assert {row["reason"] for row in quarantine} == {"too_large"}
    assert quarantine[0]["detail"] == "over 262,144 characters"
    assert len(quarantine[0]["row"]) == 10_000
    if len(quarantine) > 1:
        assert quarantine[1]["detail"] == "nested over 20 deep"


@pytest.mark.parametrize("name", ["a.jsonl", "b.csv"])
def test_a_row_of_100_mb_is_never_in_memory(tmp_path, name):
    path = tmp_path / name
    with path.open("w") as file:
        file.write("prompt\n" if path.suffix == ".csv" else "")
        for _ in range(100):
            file.write("x" * 1_000_000)
        file.write('\n{"prompt": "who?"}\n')
    tracemalloc.start()
    try:
        rows = list(READERS[path.suffix](path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rows[0][1].reason == "too_large"
    assert "who?" in str(rows[1][1])
    assert peak < 10_000_000


def test_a_json_file_that_is_too_large_to_be_read_at_once_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST_JSON", 100)
    (tmp_path / "a.json").write_text(json.dumps(numbered(50)))
    with pytest.raises(DataError, match=r"at most 100: write a row a line and name it \.jsonl"):
        prepare(tmp_path / "a.json")


def test_a_source_of_endless_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST", 1000)
    # A few hundred bytes hold them, and would hold a billion.
    pq.write_table(pa.table({"prompt": ["who?"] * 1001}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has over 1,000 rows"):
        prepare(tmp_path / "a.parquet")


ZSTD = pa.ipc.IpcWriteOptions(compression="zstd")


def said_once(path: Path) -> Path:
    """Write 256 rows of 4 MB, which the file says once."""
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int8()), ["who " * (1 << 20)])
    table = pa.table({"prompt": rows})
    if path.suffix == ".parquet":
        pq.write_table(table, path, compression="zstd", store_schema=False)
    else:
        with pa.ipc.new_file(path, table.schema, options=ZSTD) as file:
            file.write_table(table)
    return path


def lied_about(path: Path) -> Path:
    """Write a text of 100 KB that says it unpacks to 8 GB."""
    table = pa.table({"prompt": ["a" * 100_000]})
    with pa.ipc.new_file(path, table.schema, options=ZSTD) as file:
        file.write_table(table)
    told, lie = (struct.pack("<q", size) for size in (100_000, 1 << 33))
    path.write_bytes(path.read_bytes().replace(told, lie))
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [(said_once, "a.parquet"), (said_once, "b.arrow"), (lied_about, "c.arrow")],
)
def test_a_small_file_that_unpacks_to_a_lot_is_refused(tmp_path, monkeypatch, make, name):
    monkeypatch.setattr(apart, "ROOM", 300 << 20)
    path = make(tmp_path / name)
    assert path.stat().st_size < 1 << 11
    with pytest.raises(DataError, match=rf"{name} takes over 300 MiB"):
        list(READERS[path.suffix](path))
