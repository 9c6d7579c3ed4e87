"""What every section of settings is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Share = Annotated[float, Field(ge=0, le=1)]


# For fields that cannot change a result, so that they stay out of cache keys: how work is
# cut up, and where a model came from once its digest is known.
NO_EFFECT: dict[str, JsonValue] = {"affects_result": False}


class Section(BaseModel):
    """Base of every section: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )
