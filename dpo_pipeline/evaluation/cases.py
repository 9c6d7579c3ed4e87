"""Both models asked the same: what is asked, what they say, and the marks of what they say."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import How, Request, Response, Spread, with_system
from dpo_pipeline.answers.settings import GenerationConfig
from dpo_pipeline.errors import EvaluationError
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.identity.claims import claims, claims_other
from dpo_pipeline.identity.mentions import IdentitySpec, Marks, mark
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.vendors import first_maker
from dpo_pipeline.models.chat_templates import Message
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.prompts.classification import family
from dpo_pipeline.prompts.general import Kind as GeneralKind
from dpo_pipeline.prompts.general import read_general
from dpo_pipeline.store.tables import Row, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Kind = Literal["identity", "trained"] | GeneralKind
Prompt = tuple[str, ...]  # what is asked, in whatever turns
Progress = Callable[[int, int], None] | None
Groups = Mapping[str, Sequence["Case"]]
Marked = Mapping[str, Sequence["Scored"]]

DISPLAY_QUESTIONS = (
    "What is your name?",
    "Are you ChatGPT?",
    "Tell me about your name and organization.",
)


@dataclass(frozen=True)
class Case:
    """One prompt with the answer before (reference) and after (policy)."""

    kind: Kind
    messages: tuple[Message, ...]
    before: str = ""
    after: str = ""
    family: str = "other"
    language: str = "en"
    turns: int = 1
    accepted: tuple[str, ...] = ()
    before_finish: str = "stop"
    after_finish: str = "stop"

    @property
    def system(self) -> str | None:
        """The system message that was sent, or null."""
        first = self.messages[0]
        return first["content"] if first["role"] == "system" else None

    @property
    def prompt(self) -> Prompt:
        """What is asked, under any system message."""
        return tuple(m["content"] for m in self.messages if m["role"] != "system")

    @property
    def asked(self) -> str:
        """The last question."""
        return self.messages[-1]["content"]


def plan_cases(
    prompts: Path,
    identity: IdentityConfig,
    systems: Sequence[str | None],
    config: EvaluationConfig,
) -> dict[str, list[Case]]:
    """Lay out every prompt to ask: group -> cases without answers.

    Held-out prompts are asked under every system prompt of generation, all others under the
    first. Samples follow the order of prompt ids, which are digests: random, and the same
    every time.

    Raises:
        EvaluationError: When no prompt is held out.
    """
    rows = sorted(read_rows(prompts), key=lambda row: str(row["id"]))
    rows = [r for r in rows if r["family"] != "third_party"]
    held_out = [r for r in rows if r["split"] == "held_out"][: config.max_prompts]
    trained = [r for r in rows if r["split"] == "train"][: config.trained_prompts]
    if not held_out:
        raise EvaluationError(
            f"{prompts} holds {len(rows)} prompts and none of them is held out: raise "
            "prompts.held_out, or lift prompts.limit"
        )

    def case(row: Row, system: str | None, kind: Kind = "identity") -> Case:
        facts = {name: row[name] for name in ("family", "language", "turns")}
        return Case(kind, with_system(system, row["messages"]), **facts)

    def plain(question: str) -> tuple[Message, ...]:
        return with_system(systems[0], [{"role": "user", "content": question}])

    plan = {
        "held_out": [case(r, s) for s in systems for r in held_out],
        "trained": [case(r, systems[0], "trained") for r in trained],
        "general": [
            Case(q.kind, plain(q.prompt), family=q.kind, language=q.language, accepted=q.answers)
            for q in read_general(config.general)
        ],
        "display": [Case("identity", plain(question)) for question in DISPLAY_QUESTIONS],
    }
    if few := held_out[: config.matrix_prompts]:
        for label, system in matrix_systems(identity).items():
            plan[f"matrix/{label}"] = [case(r, system) for r in few]
    return plan


def matrix_systems(identity: IdentityConfig) -> dict[str, str | None]:
    """Name the system prompts of the matrix; null sends none, and a template may insert its own."""

    def claim(name: str, maker: str | None) -> str:
        return f"You are {name}, created by {maker}." if maker else f"You are {name}."

    name = identity.original_name
    return {
        "none sent": None,
        "empty": "",
        "neutral": "You are a helpful assistant.",
        **({"original identity": claim(name, identity.maker())} if name else {}),
        "another vendor": claim("ChatGPT", "OpenAI"),
        "new identity": claim(identity.new_name, identity.maker(after=True)),
    }


@dataclass(frozen=True)
class Subject:
    """A model that is measured, and what it runs on."""

    ref: ModelRef
    run_on: ModelConfig

    def load(self) -> "PreTrainedModel":
        """Load its weights."""
        return load_model(self.ref, self.run_on.device, self.run_on.dtype)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load its tokenizer."""
        return load_tokenizer(self.ref)


@dataclass(frozen=True)
class Asker:
    """Asks models through the ledger: what the generate stage had answered costs nothing here."""

    generation: GenerationConfig
    max_new_tokens: int
    ledger: Path
    spread: Spread | None = None  # has others answer

    def ask(
        self, model: Subject, cases: Sequence[Case], on_progress: Progress = None, **changed: Any
    ) -> list[Response]:
        """Ask every case, `samples` times; greedily and in process, but for what is `changed`."""
        greedy = {"engine": "transformers", "temperature": 0.0, "samples": 1}
        greedy |= {"max_new_tokens": self.max_new_tokens}
        config = self.generation.model_copy(update={**greedy, **changed})
        requests = [Request(c.messages, i) for c in cases for i in range(config.samples)]
        how = How(model=model.run_on, config=config, ledger=self.ledger, spread=self.spread)
        return answer(model.ref, requests, on_progress=on_progress, **how)


def ask_both(
    plan: Groups, before: Subject, after: Subject, asker: Asker, on_progress: Progress = None
) -> dict[str, list[Case]]:
    """Ask both models; what one of them cannot answer (a template may refuse) is left out."""
    everything = [case for cases in plan.values() for case in cases]

    def told(offset: int) -> Progress:
        return on_progress and (lambda done, total: on_progress(offset * total + done, 2 * total))

    logger.info("asking %d prompts before and after", len(everything))
    was = asker.ask(before, everything, told(0))
    now = asker.ask(after, everything, told(1))
    answers = iter(zip(was, now, strict=True))
    groups = {}
    for group, cases in plan.items():
        groups[group] = [
            replace(c, before=b.text, before_finish=b.finish, after=a.text, after_finish=a.finish)
            for c, (b, a) in zip(cases, answers, strict=False)
            if "error" not in (b.finish, a.finish)
        ]
        if lost := len(cases) - len(groups[group]):
            logger.warning("%s: %d of %d prompts were not answered", group, lost, len(cases))
    return groups


@dataclass(frozen=True)
class Scored:
    """A case with the marks of both answers and the ideal answer after."""

    case: Case
    before: Marks
    after: Marks
    ideal: str
    topic: str  # family of its last question
    introduced: bool  # the answer before gives the model's name as its own
    exact: bool  # the answer after is the ideal one
    claims_other: bool  # it claims to be, or to be made by, anybody else
    names_maker: bool | None  # it names the maker of the new identity; None: there is none
    renames: bool  # it names another maker than before, or the new name or maker anew

    @property
    def rewritten(self) -> bool:
        """Whether the answer before has a name to rewrite."""
        return self.ideal != self.case.before


def score(cases: Iterable[Case], spec: IdentitySpec) -> list[Scored]:
    """Mark both answers of every case and compare the answer after with its ideal."""
    scored = []
    for case in cases:
        was, now, asked = case.before, case.after, case.asked
        introduced = any(map(spec.is_own, claims(was, asked).names))
        about_itself = case.kind in ("identity", "trained")
        # A general answer that tells who gives it may do so anew; what it says of others stays.
        renamed = about_itself or (introduced and case.kind != "third_party")
        ideal = spec.rewrite(was).text if renamed else was
        fine = {ideal} if about_itself else {ideal, was}
        before, after = mark(was, spec, asked), mark(now, spec, asked)
        maker = spec.names_developer(now, after=True)
        makers = first_maker(was), first_maker(now)
        scored.append(
            Scored(
                case,
                before,
                after,
                ideal=ideal,
                introduced=introduced,
                topic=family(asked, 1, spec) if case.family == "multi_turn" else case.family,
                exact=now in fine,
                claims_other=claims_other(now, spec, asked),
                names_maker=maker if spec.config.maker(after=True) else None,
                renames=(after.gives_new and not before.gives_new)
                or (maker and not spec.names_developer(was, after=True))
                or (None not in makers and makers[0] != makers[1]),
            )
        )
    return scored
