"""A small pipeline on a real store: answers in a ledger, three stages, a summary; no model.

    python chain.py FOLDER BUILT [refresh]

Appends the name of every stage that it builds, and of every answer that it makes, to BUILT.
"""

import sys
from pathlib import Path

from dpo_pipeline.store.access import claim
from dpo_pipeline.store.artifacts import Artifact, Store
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.keys import KeyParts
from dpo_pipeline.store.ledger import Ledger
from dpo_pipeline.store.records import Record


class Counts(Record):
    rows: int


def main(root: Path, built: Path, refresh: bool) -> None:
    claim(root)
    store = Store(root)
    store.sweep()
    held = store.hold()

    def note(what: str) -> None:
        with built.open("a") as log:
            log.write(f"{what}\n")

    def answers(out: Path, _work: Path) -> Counts:
        book = Ledger(root / "ledger", {"weights": "x"})
        for key in ("a", "b"):
            if not book.read({key}):
                book.append({key: {"text": f"answer {key}"}})
                note(f"answer {key}")
        book.close()
        Counts(rows=2).write(out / "answers.json")
        note("answers")
        return Counts(rows=2)

    def trained(out: Path, work: Path) -> Counts:
        for step in (1, 2):
            if not (work / f"checkpoint-{step}").exists():
                write_whole(work / f"checkpoint-{step}", f"step {step}")
                note(f"step {step}")
        (out / "model").mkdir()
        (out / "model" / "weights").write_bytes((work / "checkpoint-2").read_bytes() * 1000)
        note("train")
        return Counts(rows=2)

    def score(out: Path, _work: Path) -> Counts:
        write_whole(out / "scorecard.json", "{}")
        note("score")
        return Counts(rows=1)

    before: Artifact[Counts] | None = None
    for stage, build in (("generate", answers), ("train", trained), ("evaluate", score)):
        inputs: KeyParts = {"of": before.digest if before else None}
        parts: KeyParts = {"stage": stage, "inputs": inputs}
        before, _ = store.get_or_build(stage, parts, build, Counts, refresh=refresh)
    write_whole(root / "runs" / "one" / "summary.json", "{}")
    held.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), "refresh" in sys.argv)
