"""Records: what crosses a door between stages, processes and versions, typed and as JSON."""

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dpo_pipeline.errors import StoreError
from dpo_pipeline.store.files import write_whole


class Record(BaseModel):
    """Base of every record: immutable; what a newer version added to a file is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    def write(self, path: Path) -> None:
        """Write the record as JSON, whole or not at all.

        Raises:
            StoreError: The disk is full or not writable.
        """
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=1)
        write_whole(path, text + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record that some version of this project wrote.

        Raises:
            StoreError: The file is missing or no JSON; or it lacks what this version needs,
                since an older one wrote it.
        """
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise StoreError(f"{path} is missing; run the stage that writes it again") from None
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path} is damaged ({error}); delete it and run again") from None
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, item["loc"])) for item in error.errors()}))
            raise StoreError(
                f"{path} was written by another version of dpo-pipeline: {fields} not as this one "
                "writes it; run again to make it anew"
            ) from None
