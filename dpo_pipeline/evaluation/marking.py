"""Answers marked: what each says before and after, and what it should say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpo_pipeline.evaluation.cases import Case
from dpo_pipeline.identity.claims import Marks, mark
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.store.tables import messages_type


@dataclass(frozen=True)
class Scored:
    """A case with the marks of both answers and the ideal answer after."""

    case: Case
    before: Marks
    after: Marks
    ideal: str
    exact: bool
    kept_developer: bool


def score(cases: Iterable[Case], spec: IdentitySpec) -> list[Scored]:
    """Mark both answers of every case and compare the answer after with its ideal."""
    return [_score(case, spec) for case in cases]


def _score(case: Case, spec: IdentitySpec) -> Scored:
    ideal = case.before if case.kind == "third_party" else spec.rewrite(case.before).text
    # A general answer need not name its author anew, but may.
    fine = {ideal, case.before} if case.kind == "general" else {ideal}
    return Scored(
        case=case,
        before=mark(case.before, spec, case.asked),
        after=mark(case.after, spec, case.asked),
        ideal=ideal,
        exact=case.after in fine,
        kept_developer=spec.names_developer(case.after, after=True),
    )


def write_answers(scored: Mapping[str, Sequence[Scored]], path: Path) -> None:
    """Write every prompt with its answers before and after, the ideal one and all marks."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    columns = {
        **dict.fromkeys(("group", "kind", "family", "language"), text),
        **{"turns": pa.int32(), "system": text, "messages": messages_type()},
        **dict.fromkeys(("before", "after", "ideal", "before_finish", "after_finish"), text),
        **{"exact": pa.bool_(), "before_flags": pa.list_(text), "after_flags": pa.list_(text)},
    }
    rows = [
        {
            **vars(s.case),
            "group": group,
            "system": s.case.system,
            "ideal": s.ideal,
            "exact": s.exact,
            "before_flags": s.before.flags(),
            "after_flags": s.after.flags(),
        }
        for group, many in scored.items()
        for s in many
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(columns.items()))), path)
