"""A store in any order of events: what is served is what was built, and nothing is lost by gc."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dpo_pipeline.store.artifacts import Store
from dpo_pipeline.store.keys import KeyParts
from dpo_pipeline.store.ledger import Ledger
from dpo_pipeline.store.maintenance import check_store, collect
from dpo_pipeline.store.records import Record

NUMBERS = st.integers(0, 4)


class Holds(Record):
    number: int


class Stored(RuleBasedStateMachine):
    """Five artifacts, each made of its number alone; runs that refer to some; a ledger."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="machine-"))
        self.store = Store(self.root)
        self.referred: dict[int, Path] = {}  # whole, and a run's
        self.answers: dict[str, dict[str, int]] = {}
        self.books = [Ledger(self.root / "ledger", {}) for _ in range(2)]

    def parts(self, number: int) -> KeyParts:
        return {"stage": "save", "inputs": {"number": number}}

    @rule(number=NUMBERS, refresh=st.booleans(), other_first=st.booleans())
    def build(self, number: int, refresh: bool, other_first: bool) -> None:
        def write(out: Path, _work: Path) -> Holds:
            if other_first:  # a writer of another artifact, in the middle of this one's
                Store(self.root).get_or_build("other", self.parts(number), inner, Holds)
            return inner(out, _work)

        def inner(out: Path, _work: Path) -> Holds:
            (out / "sub").mkdir()
            (out / "sub" / "number").write_text(str(number) * 10)
            return Holds(number=number)

        found, _ = self.store.get_or_build(
            "save", self.parts(number), write, Holds, refresh=refresh
        )
        assert found.stats.number == number
        assert (found.path / "sub" / "number").read_text() == str(number) * 10

    @rule(number=NUMBERS)
    def refer(self, number: int) -> None:
        self.build(number, False, False)
        (found,) = (
            path
            for path in (self.root / "objects" / "save").iterdir()
            if (path / "sub" / "number").is_file()
            and (path / "sub" / "number").read_text() == str(number) * 10
        )
        self.referred[number] = found
        summary = self.root / "runs" / f"run-{number}" / "summary.json"
        summary.parent.mkdir(parents=True, exist_ok=True)
        summary.write_text(f'{{"path": "{found}"}}')

    @rule(number=NUMBERS)
    def forget(self, number: int) -> None:
        shutil.rmtree(self.root / "runs" / f"run-{number}", ignore_errors=True)
        self.referred.pop(number, None)

    @rule(
        which=st.integers(0, 50),
        where=st.floats(0, 1),
        how=st.sampled_from(["flip", "cut", "remove", "add", "empty folder"]),
    )
    def damage(self, which: int, where: float, how: str) -> None:
        files = sorted(path for path in self.root.glob("objects/**/*") if path.is_file())
        if not files:
            return
        file = files[which % len(files)]
        self.referred = {n: p for n, p in self.referred.items() if p not in file.parents}
        content = file.read_bytes()
        at = int(where * (len(content) - 1)) if content else 0
        match how:
            case "flip" if content:
                file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            case "cut":
                file.write_bytes(content[:at])
            case "add":
                file.with_name("added").write_bytes(b"x")
            case "empty folder":
                shutil.rmtree(file.parent)
                file.parent.mkdir()
            case _:
                file.unlink()

    @rule(number=NUMBERS)
    def die_while_building(self, number: int) -> None:
        for name in ("tmp", "work"):
            half = self.root / name / f"save-{number:032d}"
            half.mkdir(parents=True, exist_ok=True)
            (half / "file").write_bytes(b"half")

    @rule(delete=st.booleans())
    def collect(self, delete: bool) -> None:
        list(collect(self.store, 0, delete=delete))

    @rule()
    def sweep(self) -> None:
        self.store.sweep()
        assert not list((self.root / "tmp").glob("*"))

    @rule(writer=st.integers(0, 1), number=NUMBERS)
    def answer(self, writer: int, number: int) -> None:
        self.answers[str(number)] = {"answer": number}
        self.books[writer].append({str(number): {"answer": number}})

    @invariant()
    def what_runs_refer_to_is_whole(self) -> None:
        if not hasattr(self, "root"):
            return
        damaged = {line.split(": ")[0] for line in check_store(self.store)}
        for path in self.referred.values():
            assert path.is_dir()
            assert str(path) not in damaged
        assert self.books[0].read(self.answers.keys()) == self.answers

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)


TestStored = Stored.TestCase
TestStored.settings = settings(
    deadline=None,
    max_examples=25,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
