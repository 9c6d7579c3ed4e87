"""What every section of settings is made of."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
# No number is larger than what databases, tensors and random generators take.
MOST = 2**31 - 1
Count = Annotated[int, Field(ge=0, le=MOST)]
AtLeastOne = Annotated[int, Field(ge=1, le=MOST)]
AtLeastEight = Annotated[int, Field(ge=8, le=MOST)]

# Of a field that cannot change a result, so that it stays out of cache keys: how work is cut
# up, and where a model came from once its digest is known.
NoEffect = Annotated[T, Field(json_schema_extra={"affects_result": False})]


class Section(BaseModel):
    """Base of every section: immutable, and a misspelt field is an error.

    The docstring under a field is its help text.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def idle(self) -> frozenset[str]:
        """Name the fields that others of the section switch off, so that keys leave them out."""
        return frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Make every help text one line, however many it takes in the source."""
        wrapped = [f for f in cls.model_fields.values() if "\n" in (f.description or "")]
        for field in wrapped:
            field.description = str(field.description).replace("\n", " ")
        if wrapped:
            cls.model_rebuild(force=True)
