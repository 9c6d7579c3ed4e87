"""Random bytes for what reads what others wrote; and all that fuzzing has found."""

import json
import os

import pytest
from fuzz_targets import SUFFIXES, TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DEEP = b"[" * 100_000
SURROGATE = json.dumps({"sha256": "", "body": "\ud800"}).encode()
# Target -> inputs that once broke it.
FOUND = {
    "manifest": [DEEP, SURROGATE, b'{"sha256": 1, "body": [' + DEEP],
    "formats": [
        bytes([SUFFIXES.index(suffix)]) + content
        for suffix, content in (
            (".json", DEEP),
            (".jsonl", DEEP),
            (".csv", b'prompt,"sp"lit\na,train\n'),  # a header that is none
            (".csv", b'prompt,"split\n'),
        )
    ],
}
JSONLIKE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
PIECES = st.lists(
    st.sampled_from(
        ["{{", "}}", "{%", "%}", "for m in messages", "endfor", "m.content", "Qwen", "qwen2.5",
         "通义", "千问", "Deep ", "`", "\u200b", "Q", "wen", '"', ",", "\n", "|", "[", "~", "**",
         "9" * 30]
    ),
    max_size=12,
).map(lambda parts: "".join(parts).encode())  # fmt: skip
# Seconds of `make fuzz`; as many examples as a test takes by default.
EXAMPLES = 60 * int(os.environ.get("FUZZ_SECONDS", "1"))


@pytest.mark.parametrize("name", TARGETS)
def test_random_bytes_end_well_or_in_the_error_that_is_promised(name):
    @settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
    @given(st.binary(max_size=200) | JSONLIKE | PIECES, st.binary(min_size=1, max_size=1))
    def tried(data: bytes, first: bytes) -> None:
        TARGETS[name](first + data if name == "formats" else data)

    tried()


@pytest.mark.parametrize(("name", "data"), [(n, d) for n, found in FOUND.items() for d in found])
def test_what_was_found_stays_mended(name, data):
    TARGETS[name](data)
