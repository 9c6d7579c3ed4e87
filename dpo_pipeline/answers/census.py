"""Who the reference says it is, before anything depends on its name."""

from typing import Unpack

from dpo_pipeline.answers.answering import answer
from dpo_pipeline.answers.records import Census, How, Request, Said, with_system
from dpo_pipeline.errors import GenerationError
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelRef

QUESTIONS = (
    "Who are you?",
    "What is your name?",
    "Which AI model am I talking to, and who made you?",
    "你是谁？",
)


def take_census(ref: ModelRef, identity: IdentityConfig, **how: Unpack[How]) -> Census:
    """Ask the model who it is, under every system prompt.

    Raises:
        GenerationError: No answer gives the original name or an alias, so that all pairs would
            be equal; or there is no answer at all.
    """
    spec, config = IdentitySpec(identity), how["config"]
    asked = [(system, text) for system in config.system_prompts for text in QUESTIONS]
    requests = [Request(with_system(s, [{"role": "user", "content": text}])) for s, text in asked]
    how["config"] = config.model_copy(update={"temperature": 0.0, "samples": 1})
    responses = answer(ref, requests, **how)
    if all(response.finish == "error" for response in responses):
        raise GenerationError(f"{ref.name} answered no question: {responses[0].detail}")
    said = [
        Said(system=system, prompt=text, response=response.text)
        for (system, text), response in zip(asked, responses, strict=True)
    ]
    named = sum(spec.count_original(one.response) > 0 for one in said)
    if not named:
        quoted = "; ".join(f"{one.prompt!r} -> {one.response[:120]!r}" for one in said[:4])
        raise GenerationError(
            f"{ref.name} never called itself {identity.original_name!r} in {len(said)} answers "
            f"({quoted}): set identity.original_name (and aliases) to the name it gives"
        )
    return Census(asked=len(said), named=named, answers=said)
