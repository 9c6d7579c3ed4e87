"""Answers of the model become pairs that differ by the name and nothing else."""

from pathlib import Path

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.mentions import IdentitySpec, addresses_model, is_personal
from dpo_pipeline.identity.rewriting import Rewrite, difference
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.identity.system_message import DefaultSystem
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.pairs.schema import FACTS, describe_pairs, explain_reasons
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.pairs.writing import Candidate, PairStats, write_pairs
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.tables import Row, read_rows
from dpo_pipeline.store.text import excerpt

_ANSWER = ("messages", "sample", "response", "finish", "tokens", "reason", "detail", "given_chosen")


class RewriteStats(PairStats):
    """What became of the answers."""

    default_system: DefaultSystem  # what the chat template says where no system message is sent


def build_pairs(
    responses: Path, ref: ModelRef, identity: IdentityConfig, config: PairsConfig, out: Path
) -> RewriteStats:
    """Make each row of responses.parquet a pair that teaches the new name, or quarantine it.

    The tokenizer of the reference model counts the tokens; out gets pairs.parquet and
    quarantine.parquet.

    Raises:
        DataError: No response became a pair; the message says what the model said instead.
        StoreError: The disk is full or not writable.
    """
    spec = IdentitySpec(identity)
    tokenizer = load_tokenizer(ref)
    metadata = describe_pairs(ref, tokenizer, config, spec)
    candidates = (_candidate(row, spec, config) for row in read_rows(responses, (*FACTS, *_ANSWER)))
    counts = write_pairs(candidates, tokenizer, metadata, out)
    if not counts.pairs:
        message = f"0 usable pairs of {counts.rows} answers"
        if 2 * sum(counts.reasons.get(code, 0) for code in ("no_name", "identical")) > counts.rows:
            message += f": the model never said {identity.original_name or 'a name'!r}"
        refused = read_rows(out / "quarantine.parquet")
        if said := next((row["detail"] for row in refused if row["reason"] == "no_name"), ""):
            message += f"; it said, for example, {said!r}"
        raise DataError(f"{message}. In quarantine: {explain_reasons(counts.reasons)}")
    return RewriteStats(**dict(counts), default_system=metadata.default_system)


def _candidate(row: Row, spec: IdentitySpec, config: PairsConfig) -> Candidate:
    try:
        _check_response(row, spec)
        return _choose(row, spec, config)
    except Refused as refused:
        return Candidate(row, row, refused=refused)


def _check_response(row: Row, spec: IdentitySpec) -> None:
    prompt = row["messages"]
    if row["finish"] == "error":
        raise Refused(row["reason"], row["detail"])
    if not (row["response"] or "").strip():
        raise Refused("empty_completion", "the model said nothing")
    if row["finish"] == "length":
        raise Refused("truncated", f"{row['tokens']} tokens")
    if not prompt or prompt[-1]["role"] != "user":
        raise Refused("prompt_mismatch", "the prompt does not end with a user message")
    if row["family"] == "third_party" or spec.is_third_party(prompt[-1]["content"]):
        raise Refused("third_party", excerpt(prompt[-1]["content"]))


def _choose(row: Row, spec: IdentitySpec, config: PairsConfig) -> Candidate:
    """Pair a response with the completion that the strategy prefers to it."""
    response, prompt = row["response"], row["messages"]
    told = any(spec.count_original(message["content"]) for message in prompt[:-1])
    flags = ("name_in_context",) if told else ()
    rewrite = spec.rewrite(response)
    spans, rules = rewrite.spans, {}
    if config.strategy == "dataset":
        if not (row["given_chosen"] or "").strip():
            raise Refused("empty_completion", "the source gives no answer")
        chosen, flags = spec.rewrite(row["given_chosen"]).text, ("given", *flags)
        spans = difference(response, chosen)
    elif rewrite.spans:
        _check_lesson(prompt[-1]["content"], response, rewrite, spec)
        chosen, rules = rewrite.text, rewrite.counts
    elif spec.count_new(response):
        raise Refused("already_new", excerpt(response))
    elif config.strategy == "template" and (answers := _written_answers(row, config, spec.config)):
        # Which answer depends on the prompt alone: the same one every time.
        chosen = answers[int(digest_of(row["prompt_id"])[:8], 16) % len(answers)]
        flags, spans = ("written", *flags), difference(response, chosen)
    else:
        raise Refused("no_name", excerpt(response))
    if spec.is_doubled(chosen):
        raise Refused("doubled", excerpt(chosen))
    return Candidate(row, row, prompt, chosen, response, spans, flags, rules)


def _check_lesson(question: str, response: str, rewrite: Rewrite, spec: IdentitySpec) -> None:
    """Refuse an edit that would teach something else than the name."""
    if spec.count_new(question):
        raise Refused("asks_new", excerpt(question))
    if not (addresses_model(question) or is_personal(response) or is_personal(question)):
        raise Refused("third_party", excerpt(response))
    if rewrite.counts.get("kept_longer"):
        raise Refused("mixed_name", excerpt(rewrite.text))


def _written_answers(row: Row, config: PairsConfig, identity: IdentityConfig) -> list[str]:
    """Fill the templates that answer the prompt; none unless it asks the model who it is."""
    asks_maker = row["family"] in ("maker", "both")
    asks_name = row["family"] in ("name", "are_you")
    if not ((asks_maker or asks_name) and addresses_model(row["messages"][-1]["content"])):
        return []
    developer = identity.maker(after=True)
    return [
        template.replace("{name}", identity.new_name).replace("{developer}", developer or "")
        for template in config.templates.get(row["language"], ())
        if (developer if "{developer}" in template else not asks_maker)
    ]
