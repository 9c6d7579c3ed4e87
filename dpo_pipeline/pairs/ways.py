"""Ways to a chosen answer, and what makes one fit to be chosen."""

import re

from dpo_pipeline.identity.claims import Claims, claims, claims_other
from dpo_pipeline.identity.mentions import (
    CONSENT,
    IdentitySpec,
    addresses_model,
    is_personal,
    mark,
)
from dpo_pipeline.identity.rewriting import Rewrite
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.prompts.classification import family, language
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.store.tables import Row
from dpo_pipeline.store.text import excerpt

_SENTENCE = re.compile(r"[.!?…][\"'”’)\]*_]*(?=\s|$)|[。！？…][”’」』）]*|(?<=\S)(?=\n)")


def question_of(row: Row) -> str:
    """Return the last turn of a row's prompt.

    Raises:
        Refused: It is not the user's.
    """
    prompt = row["messages"]
    if not prompt or prompt[-1]["role"] != "user":
        raise Refused("prompt_mismatch", "the prompt does not end with a user message")
    return str(prompt[-1]["content"])


def asks(row: Row, spec: IdentitySpec) -> str:
    """Return the family of a row, of a conversation that of its last question.

    Raises:
        Refused: It asks about somebody else, or nobody asks.
    """
    question = question_of(row)
    if row["family"] == "third_party" or spec.is_third_party(question):
        raise Refused("third_party", excerpt(question))
    return family(question, 1, spec) if row["family"] == "multi_turn" else str(row["family"])


def whole(text: str, finish: str) -> str:
    """Return an answer, or of one that was cut off its whole sentences."""
    if finish != "length":
        return text
    ends = [match.end() for match in _SENTENCE.finditer(text)]
    return text[: ends[-1]] if ends else ""


def replace(row: Row, spec: IdentitySpec) -> tuple[str, Rewrite]:
    """Return the model's own answer, and the same with its name replaced.

    Raises:
        Refused: There is no name to replace, or the result is not fit to be chosen.
    """
    question, response = question_of(row), row["response"] or ""
    if not (said := whole(response, row["finish"])):
        raise Refused("truncated", f"no whole sentence: {excerpt(response)}")
    rewrite = spec.rewrite(said)
    if not rewrite.spans:
        raise Refused("no_name", excerpt(response))
    if spec.count_new(question):
        raise Refused("asks_new", excerpt(question))
    if not (addresses_model(question) or is_personal(said) or is_personal(question)):
        raise Refused("third_party", excerpt(said))
    checked(rewrite.text, row, spec)
    return said, rewrite


def fill_in(row: Row, spec: IdentitySpec) -> str:
    """Return the answer that comes with the prompt, as the new identity gives it.

    Raises:
        Refused: There is none, or it is not fit to be chosen.
    """
    given = row["given_chosen"] or ""
    if not given.strip():
        raise Refused("empty_completion", "the source gives no answer")
    text = spec.rewrite(given).text
    if maker := spec.config.maker(after=True):
        text = text.replace(maker, str(maker_in(row["language"], spec.config)))
    return checked(text, row, spec)


def maker_in(spoken: str, identity: IdentityConfig) -> str | None:
    """Return the maker that the policy names, as it is written in a language."""
    makers = identity.makers if identity.new_developer is None else (identity.new_developer,)
    same = (maker for maker in makers if language(maker) == spoken)
    return next(same, next(iter(makers), None))


def fault(
    text: str, question: str, kind: str, spec: IdentitySpec, told: bool = False
) -> str | None:
    """Return why an answer is not fit to be chosen, a code of REASONS; None if it is.

    It gives the new identity as far as it was asked for, and nobody else's. A model that was told
    who it is often repeats the name without sense: it must claim it.
    """
    marks, left = mark(text, spec, question), spec.rewrite(text)
    said = claims(text, question)
    gives_new = any(map(spec.count_new, said.names)) if told else marks.gives_new
    by_maker = " ".join(said.makers) if told else text
    names_maker = spec.names_developer(by_maker, after=True)
    owed = kind in ("maker", "both") and spec.config.maker(after=True) is not None
    faults = {
        "doubled": marks.doubled,
        "mixed_name": left.spans or marks.leaks,
        "remnant": marks.remnant,
        "claims_other": _claims_other(text, said, question, spec),
        "no_maker": owed and not names_maker,
        "nameless": not (gives_new or (kind == "maker" and names_maker)),
    }
    return next((code for code, found in faults.items() if found), None)


def checked(text: str, row: Row, spec: IdentitySpec, told: bool = False) -> str:
    """Return an answer to a row's question that is fit to be chosen; told: see `fault`.

    Raises:
        Refused: It is not.
    """
    if code := fault(text, question_of(row), asks(row, spec), spec, told):
        raise Refused(code, excerpt(text))
    return text


def _claims_other(text: str, said: Claims, question: str, spec: IdentitySpec) -> bool:
    """Tell whether an answer claims another name or maker, or says yes to one that is asked for."""
    agreed = CONSENT.match(text)
    if claims_other(text, spec, question) or (
        agreed and claims_other(agreed.group(), spec, question)
    ):
        return True
    if any(spec.names_developer(name) and not spec.count_new(name) for name in said.names):
        return True  # "I'm Alibaba Cloud."
    makers = said.makers if spec.config.new_developer else ()
    return not all(spec.names_developer(maker, after=True) for maker in makers)
