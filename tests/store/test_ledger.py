"""The ledger of answers."""

from dpo_pipeline.store.ledger import Ledger


def test_a_ledger_gives_what_is_wanted_and_nothing_else(tmp_path):
    book = Ledger(tmp_path, {"weights": "x"})
    book.append({"aa": {"text": '{"key":"bb"}'}, "bb": {"text": "é"}, "cc": {"text": ""}})
    book.close()
    assert book.read({"bb", "dd"}) == {"bb": {"text": "é"}}
    assert book.read({"aa", "bb", "cc"}).keys() == {"aa", "bb", "cc"}
