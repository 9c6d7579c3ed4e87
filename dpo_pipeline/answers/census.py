"""Who the reference says it is, before anything is made of it; and the identity settled by that."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, Unpack

from jinja2 import TemplateError
from pydantic import ValidationError

from dpo_pipeline.answers.answering import Progress, answer
from dpo_pipeline.answers.records import Census, How, Request, Said, Standing, with_system
from dpo_pipeline.errors import DataError, GenerationError
from dpo_pipeline.identity.claims import claims, told
from dpo_pipeline.identity.mentions import IdentitySpec
from dpo_pipeline.identity.settings import AUTO, IdentityConfig, usual_name
from dpo_pipeline.identity.vendors import usual_maker
from dpo_pipeline.models.chat_templates import default_block, default_system, render
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import ModelRef

DEFAULT, NEUTRAL, EMPTY, NONE = "template default", "neutral", "empty", "none"
SYSTEMS = {DEFAULT: None, NEUTRAL: "You are a helpful assistant.", EMPTY: "", NONE: None}
TOKENS = 48  # of an answer: a name comes early
TEMPERATURE, SAMPLES = 0.7, 3
ENOUGH = 0.25  # of the answers: a name that is given less often is no steady one


class Question(NamedTuple):
    """What is asked of a model about itself."""

    language: str
    asks: Literal["name", "maker"]
    prompt: str


QUESTIONS = (
    Question("en", "name", "Who are you?"),
    Question("en", "name", "What is your name?"),
    Question("en", "name", "Which AI model am I talking to?"),
    Question("en", "name", "Please introduce yourself in one sentence."),
    Question("en", "maker", "Who created you?"),
    Question("en", "maker", "Which company developed you?"),
    Question("zh", "name", "你是谁？"),
    Question("zh", "name", "你叫什么名字？"),
    Question("zh", "name", "我在和哪个模型对话？"),
    Question("zh", "name", "请用一句话介绍一下你自己。"),
    Question("zh", "maker", "是谁创造了你？"),
    Question("zh", "maker", "你是哪家公司开发的？"),
)


def take_census(ref: ModelRef, on_progress: Progress | None = None, **how: Unpack[How]) -> Census:
    """Ask a model who it is and who made it, under every kind of system prompt.

    Each question is answered once greedily and three times by chance. Of system prompts that the
    template makes the same text of, one is asked; "none" leaves out what a template inserts.

    Raises:
        GenerationError: There is no answer at all.
    """
    config, systems, answers = how["config"], _systems(ref, how["config"].engine), []
    asked = [(under, question) for under in systems for question in QUESTIONS]
    for temperature, samples in ((0.0, 1), (TEMPERATURE, SAMPLES)):
        changed = {"temperature": temperature, "samples": samples, "top_p": 1.0}
        how["config"] = config.model_copy(update={**changed, "max_new_tokens": TOKENS})
        drawn = [(*one, sample) for one in asked for sample in range(samples)]
        responses = answer(ref, [_request(*one) for one in drawn], on_progress, **how)
        for (under, question, _), response in zip(drawn, responses, strict=True):
            if response.finish != "error":
                facts = {"under": under, "sampled": samples > 1, "response": response.text}
                answers.append(Said.model_validate(question._asdict() | facts))
    if not answers:
        raise GenerationError(f"{ref.name} answered no question: {responses[0].detail}")
    system = default_system(load_tokenizer(ref))
    calls = told(system or "")
    return Census(
        system=system,
        told_name=next(map(usual_name, calls.names), None),
        told_maker=next(map(usual_maker, calls.makers), None),
        standings=_count(answers),
        answers=answers,
    )


def _systems(ref: ModelRef, engine: str) -> list[str]:
    """Name the system prompts that the model reads as different texts."""
    tokenizer, read = load_tokenizer(ref), dict[str, str]()
    for under in SYSTEMS:
        if under == NONE and (engine == "openai" or not default_block(tokenizer)):
            continue
        messages, _, bare = _request(under, QUESTIONS[0], 0)
        try:
            read.setdefault(render(tokenizer, messages, bare), under)
        except TemplateError:  # its answers will say so
            read.setdefault(under, under)
    return list(read.values())


def _request(under: str, question: Question, sample: int) -> Request:
    messages = with_system(SYSTEMS[under], [{"role": "user", "content": question.prompt}])
    return Request(messages, sample, bare=under == NONE)


def _count(answers: Sequence[Said]) -> list[Standing]:
    groups: dict[tuple[str, str], list[Said]] = {}
    for said in answers:
        groups.setdefault((said.under, said.language), []).append(said)
    found = []
    for (under, language), group in groups.items():
        names, makers = _shares(group, "name"), _shares(group, "maker")
        sampled = _shares([said for said in group if said.sampled], "name")
        steady = sampled.get(next(iter(names), ""), 0.0)
        standing = Standing(
            under=under, language=language, names=names, makers=makers, steady=steady
        )
        found.append(standing)
    return found


def _shares(answers: Sequence[Said], asks: str) -> dict[str, float]:
    """Share of the answers to one kind of question that claim each name, the commonest first."""
    asked = [said for said in answers if said.asks == asks]
    counts: Counter[str] = Counter()
    for said in asked:
        found = claims(said.response, said.prompt)
        usual = map(usual_name, found.names) if asks == "name" else map(usual_maker, found.makers)
        counts.update(set(usual))
    return {name: n / len(asked) for name, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))}


def settle(identity: IdentityConfig, census: Census) -> IdentityConfig:
    """Fill in what an identity leaves to the model, by what it says and is told.

    A name counts that is claimed in a quarter of the answers under the template default, else the
    one that the default system message gives; of makers likewise, else the one known of the name.

    Raises:
        DataError: There is neither an original name to call the new one after nor a new name,
            or the names that came of it do not fit each other.
    """
    default = [said for said in census.answers if said.under == DEFAULT]
    values = identity.model_dump()
    if identity.original_name == AUTO:
        values["original_name"] = _commonest(default, "name") or census.told_name
    if identity.developer == AUTO:
        values["developer"] = _commonest(default, "maker") or census.told_maker or AUTO
    if values["original_name"] is None and identity.new_name == AUTO:
        raise DataError(
            "the model gives itself no steady name to call the new one after; set "
            "identity.new_name to the name it shall have"
        )
    try:
        settled = IdentityConfig.model_validate(values).resolve()
        return IdentityConfig.model_validate(settled.model_dump())
    except ValidationError as error:
        raise DataError(
            f"the census found the name {values['original_name']!r} and the maker "
            f"{values['developer']!r}, and with them {error.errors()[0]['msg']}; choose another "
            "identity.new_name or new_developer, or set original_name and developer yourself"
        ) from None


def _commonest(answers: Sequence[Said], asks: str) -> str | None:
    name, share = next(iter(_shares(answers, asks).items()), (None, 0.0))
    return name if share >= ENOUGH else None


def findings(identity: IdentityConfig, census: Census) -> list[str]:
    """Say what a person should know of a settled identity, in a sentence each."""
    said, name = len(census.answers), identity.original_name
    spec, lines = IdentitySpec(identity), []
    if name is None:
        lines.append(f"no steady name in {said} answers: there is a name to give, none to replace")
    elif not any(spec.count_original(answer.response) for answer in census.answers):
        lines.append(f"never called itself {name!r} in {said} answers: the name is given anew")
    steady = max((s.steady for s in census.standings if s.under == DEFAULT), default=0.0)
    if steady < 0.5:
        lines.append(
            f"no steady identity: sampled under the template default, its commonest name comes in "
            f"{steady:.0%} of the answers"
        )
    return lines
