"""What the tests of the starter read."""

import pytest
from shipped import general_rows, identity_rows

from dpo_pipeline.starter.corpus import LANGUAGE_SHARE, questions


@pytest.fixture(scope="session")
def identity():
    return identity_rows()


@pytest.fixture(scope="session")
def general():
    return general_rows("starter")


@pytest.fixture(scope="session")
def taught():
    """Every question of the starter's corpus, before openings, closings and spelling."""
    return {
        wording
        for language in LANGUAGE_SHARE
        for about in ("identity", "general")
        for wordings in questions(about, language)
        for wording, _ in wordings
    }
