"""YAML that means something else than it seems to is refused, with its place."""

import pytest
import yaml

from dpo_pipeline.store.strict_yaml import load_strictly


def test_a_plain_file_is_read_as_ever():
    text = "train:\n  seed: 1\n  report_to: [a, b]\nmodel: {name: x}\n"
    assert load_strictly(text) == yaml.safe_load(text)
    assert load_strictly("") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a' comes twice(.|\n)*line 3, column 1"),
        ("t:\n  x: 1\n  x: 2\n", "'x' comes twice(.|\n)*line 3, column 3"),
        ("a: &a [1, 2]\nb: *a\n", "alias(.|\n)*line 2, column 4"),
        ("a: " + "[" * 100_000, "nested over 20 deep(.|\n)*line 1"),
        ("a: " + "x" * (1 << 20), "at most"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: b: c", "line 1, column 5"),
        ("a: " + "1" * 5000, "integer string conversion(.|\n)*line 1, column 4"),
        ("a: 0x" + "f" * 6000, "over 64 bits(.|\n)*line 1, column 4"),
        ("a: 2001-99-99", "month must be in(.|\n)*line 1, column 4"),
        ("a: !!timestamp x", "no value that is read(.|\n)*line 1, column 4"),
        ('a: "\\ud800"', "surrogates not allowed(.|\n)*line 1, column 4"),
        ('a: "b\\0"', "a NUL inside(.|\n)*line 1, column 4"),
        ("? [a]\n: b", "a key is a list(.|\n)*line 1, column 3"),
    ],
)
def test_what_is_not_meant_is_refused(text, why):
    with pytest.raises(yaml.YAMLError, match=why):
        load_strictly(text)
