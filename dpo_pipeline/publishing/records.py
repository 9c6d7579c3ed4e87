"""Records of publishing: what a run has to show for itself, and what came of it at the Hub."""

from pathlib import Path

from pydantic import Field, JsonValue

from dpo_pipeline.evaluation.scorecard import Evidence, Scorecard
from dpo_pipeline.pairs.lineage import Lineage
from dpo_pipeline.store.records import Record


class Proven(Record):
    """What a run made, and what vouches for it.

    Attributes:
        run_id: Names the tag `run-<run_id>`.
        model: Folder of the policy.
        dataset: Folder of the save stage.
        base: Folder of the reference; one that is not from the Hub may name a license here.
        evidence: What the scorecard was measured on.
        lineage: What the pairs were made from; shown in both cards.
        training: How the policy was trained and judged: settings, shown in its card.
    """

    run_id: str
    model: Path
    dataset: Path
    base: Path
    evidence: Evidence
    scorecard: Scorecard
    lineage: Lineage
    training: dict[str, JsonValue]


class Differences(Record):
    """How a repository differs from what it shall be, in paths."""

    added: list[str]
    changed: list[str]
    deleted: list[str]

    @property
    def paths(self) -> list[str]:
        """All that differ."""
        return [*self.added, *self.changed, *self.deleted]


class Uploaded(Differences):
    """What came of one repository, or in a dry run would come of it.

    Attributes:
        url: Its page at the tag of the run.
        unchanged: How many files were there already.
        left_out: Files of the folder that do not go.
        commit: Holds the files; null where it is still to be made.
        committed: Whether this run made it.
        note: What a dry run could not see.
    """

    repo: str
    url: str
    tag: str
    unchanged: int
    left_out: list[str]
    private: bool
    commit: str | None
    committed: bool = False
    note: str = ""


class Published(Record):
    """What came of publishing: publish.json; after a failure, what was done before.

    Attributes:
        forced: Why it goes although the gate failed; null if it passed.
        note: Why sending would fail now.
        dataset: What came of it; absent where nothing did.
        model: The same of the model.
    """

    dry_run: bool
    forced: str | None
    note: str = ""
    dataset: Uploaded | None = Field(None, exclude_if=lambda value: value is None)
    model: Uploaded | None = Field(None, exclude_if=lambda value: value is None)
