"""Other words in a source that does the same."""

import re

OPENING = re.compile(r'description=f?"|^ *"""(?=\S)', re.MULTILINE)


def in_other_words(source: str) -> str:
    """Edit the help texts of settings, and docstrings."""
    return OPENING.sub(r"\g<0>In other words: ", source)
