"""The ledger of answers."""

import tracemalloc

from dpo_pipeline.store.ledger import LONGEST_LINE, Ledger


def test_a_ledger_gives_what_is_wanted_and_nothing_else(tmp_path):
    book = Ledger(tmp_path, {"weights": "x"})
    book.append({"aa": {"text": '{"key":"bb"}'}, "bb": {"text": "é"}, "cc": {"text": ""}})
    book.close()
    assert book.read({"bb", "dd"}) == {"bb": {"text": "é"}}
    assert book.read({"aa", "bb", "cc"}).keys() == {"aa", "bb", "cc"}


def test_a_line_of_100_mb_is_dropped_and_never_in_memory(tmp_path, caplog):
    book = Ledger(tmp_path, {"weights": "x"})
    book.append({"aa": {"text": "a"}})
    (segment,) = book.folder.glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b'0000000000000000 {"key":"aa","value":"')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')
    book.append({"bb": {"text": "b"}})
    book.close()
    tracemalloc.start()
    try:
        assert book.read({"aa", "bb"}) == {"aa": {"text": "a"}, "bb": {"text": "b"}}
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "1 damaged lines dropped" in caplog.text
    assert peak < 4 * LONGEST_LINE
