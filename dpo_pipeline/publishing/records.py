"""Records of what came of publishing at the Hub."""

from pydantic import Field

from dpo_pipeline.store.records import Record


class Uploaded(Record):
    """What came of one repository, or in a dry run would come of it.

    Attributes:
        url: Its page at the tag of the run.
        unchanged: How many files were there already.
        left_out: Files of the folder that do not go.
        commit: Holds the files; null where it is still to be made.
        committed: Whether this run made it.
        note: What a dry run could not see.
    """

    added: list[str]
    changed: list[str]
    deleted: list[str]
    repo: str
    url: str
    tag: str
    unchanged: int
    left_out: list[str]
    private: bool
    commit: str | None
    committed: bool = False
    note: str = ""

    @property
    def paths(self) -> list[str]:
        """All that differ."""
        return [*self.added, *self.changed, *self.deleted]


class Published(Record):
    """What came of publishing: publish.json; after a failure, what was done before.

    Attributes:
        forced: Why it goes although the gate failed; null if it passed.
        note: Why sending would fail now.
        dataset: Absent where nothing came of it; so is the model.
    """

    dry_run: bool
    forced: str | None
    note: str = ""
    dataset: Uploaded | None = Field(None, exclude_if=lambda value: value is None)
    model: Uploaded | None = Field(None, exclude_if=lambda value: value is None)
