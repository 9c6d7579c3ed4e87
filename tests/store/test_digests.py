"""One value, one digest."""

import hashlib

from dpo_pipeline.store.digests import canonical, digest_of, file_digest


def test_a_value_is_spelt_in_one_way():
    assert canonical({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'.encode()
    assert digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1}) != digest_of({"a": 2, "b": 2})
    assert digest_of([1, 2]) != digest_of([2, 1])


def test_a_file_is_known_by_its_bytes(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(b"\x00\xff" * (1 << 18))
    assert file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
