"""YAML as a person means it: a key once, no aliases, no depth without end; where, if not."""

from collections.abc import Hashable
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

DEEPEST = 20
LONGEST = 1 << 20  # characters


class _StrictLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        events: Any = self
        mark = events.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "an alias (*name) is not read: write it out", mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise ComposerError(None, None, f"nested over {DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key is a list or an object", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"{key.value!r} comes twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str) and "\0" in value.encode().decode():
                raise ValueError("a NUL inside")
            if isinstance(value, int) and value.bit_length() > 64:
                raise ValueError("over 64 bits")
        except (ValueError, TypeError, AttributeError) as error:  # no date, no Unicode
            told = f"no value that is read: {error}"
            raise ConstructorError(None, None, told, node.start_mark) from None
        return value


def load_strictly(text: str) -> Any:
    """Read a YAML document.

    Raises:
        yaml.YAMLError: It is none, or repeats a key, uses an alias, is nested too deep or too
            long, or holds what is no number, date or Unicode; names line and column.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"{len(text):,} characters, and at most {LONGEST:,} are read")
    return yaml.load(text, Loader=_StrictLoader)  # it is a SafeLoader
