"""What the stages declare of their arguments."""

from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest

from tasks import stages
from tasks.stage import Stage

STAGES = [found for found in vars(stages).values() if isinstance(found, Stage)]


def settings_in(kind: type) -> dict[str, object]:
    """Return the settings of a section, or the sections of some terms: name -> type."""
    if is_dataclass(kind):
        return {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
    return {name: field.annotation for name, field in kind.model_fields.items()}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.kind)
def test_what_a_stage_does_not_read_are_settings_that_it_is_given(stage):
    for argument, unread in stage.declared.unread.items():
        for name in unread:
            found = get_type_hints(stage.function)[argument]
            for part in name.split("."):
                found = settings_in(found)[part]
