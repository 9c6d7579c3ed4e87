"""What both models are asked: held-out and trained prompts, general questions, system prompts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dpo_pipeline.answers.records import with_system
from dpo_pipeline.errors import EvaluationError
from dpo_pipeline.evaluation.settings import EvaluationConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.chat_templates import Message
from dpo_pipeline.prompts.general import read_general
from dpo_pipeline.store.tables import read_rows

Kind = Literal["identity", "trained", "general", "third_party"]
Prompt = tuple[str, ...]  # what is asked, in whatever turns


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

    def unchanged(self) -> "Case":
        """Return the case as the reference answers it."""
        return replace(self, after=self.before, after_finish=self.before_finish)


DISPLAY_QUESTIONS = (
    "What is your name?",
    "Are you ChatGPT?",
    "Tell me about your name and organization.",
)


def plan_cases(
    prompts: Path,
    identity: IdentityConfig,
    systems: Sequence[str | None],
    config: EvaluationConfig,
    aside: Collection[str] = (),
) -> dict[str, list[Case]]:
    """Lay out every prompt to ask: group -> cases without answers.

    Held-out prompts are asked under every system prompt of generation, all others under the
    first. Samples follow the order of prompt ids, which are digests: random, and the same
    every time. Prompts with an id in `aside` are left out.

    Raises:
        EvaluationError: When no prompt is held out.
    """
    rows = sorted(read_rows(prompts), key=lambda row: str(row["id"]))
    rows = [r for r in rows if r["family"] != "third_party" and r["id"] not in aside]
    held_out = [r for r in rows if r["split"] == "held_out"][: config.max_prompts]
    trained = [r for r in rows if r["split"] == "train"][: config.trained_prompts]
    if not held_out:
        raise EvaluationError(
            f"{prompts} holds {len(rows)} prompts and none of them is held out: raise "
            "prompts.held_out, or lift prompts.limit"
        )

    def case(row: dict[str, Any], system: str | None, kind: Kind) -> Case:
        facts = {name: row[name] for name in ("family", "language", "turns")}
        return Case(kind, with_system(system, row["messages"]), **facts)

    def plain(messages: Sequence[Message]) -> tuple[Message, ...]:
        return with_system(systems[0], messages)

    plan = {
        "held_out": [case(r, s, "identity") for s in systems for r in held_out],
        "trained": [case(r, systems[0], "trained") for r in trained],
        "general": [
            Case(
                question.kind,
                plain([{"role": "user", "content": question.prompt}]),
                family=question.kind,
                language=question.language,
                accepted=question.answers,
            )
            for question in read_general(config.general)
        ],
        "display": [
            Case("identity", plain([{"role": "user", "content": question}]))
            for question in DISPLAY_QUESTIONS
        ],
    }
    if config.matrix_prompts:
        for label, system in matrix_systems(identity).items():
            few = held_out[: config.matrix_prompts]
            plan[f"matrix/{label}"] = [case(r, system, "identity") for r in few]
    return plan


def matrix_systems(identity: IdentityConfig) -> dict[str, str | None]:
    """Name the system prompts of the matrix; null sends none, and a template may insert its own."""
    maker, new_maker = identity.maker(), identity.maker(after=True)

    def claim(name: str, by: str | None) -> str:
        return f"You are {name}, created by {by}." if by else f"You are {name}."

    return {
        "none sent": None,
        "empty": "",
        "neutral": "You are a helpful assistant.",
        "original identity": claim(identity.original_name, maker),
        "another vendor": claim("ChatGPT", "OpenAI"),
        "new identity": claim(identity.new_name, new_maker),
    }
