"""Responses to pairs that differ by the name and nothing else, and the data set made of them."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from dpo_pipeline.errors import DataError
from dpo_pipeline.identity.names import IdentitySpec, Rewrite, addresses_model, is_personal
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelRef, load_tokenizer
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.pairs.writing import (
    COLUMNS,
    FACTS,
    FLAGS,
    METADATA_KEY,
    REASONS,
    Candidate,
    Refused,
    difference,
    excerpt,
    pairs_schema,
    quarantine_schema,
    write_pairs,
)
from dpo_pipeline.store.keys import digest_of
from dpo_pipeline.store.tables import Table, read_rows

logger = logging.getLogger("dpo_pipeline.preferences")

RESPONSE_COLUMNS = (
    *(*FACTS, "messages", "response", "finish", "tokens"),
    *("reason", "detail", "given_chosen"),
)

# Reason code -> what to do where it is the commonest.
REMEDIES = {
    "no_name": "Set identity.original_name to the name that the model gives itself, add its other "
    "spellings to identity.aliases, or set pairs.strategy to template, which answers "
    "questions about the model.",
    "already_new": "Choose another identity.new_name.",
    "third_party": "Add prompts that ask the model about itself.",
    "generation_failed": "Read the log of the generation, and run again.",
    "truncated": "Raise generation.max_new_tokens.",
    "too_long": "Raise pairs.max_length, or leave out prompts longer than the model reads.",
    "difference_cut": "Raise pairs.max_length.",
}


def build_pairs(
    responses: Path, ref: ModelRef, identity: IdentityConfig, config: PairsConfig, out: Path
) -> dict[str, Any]:
    """Make each response into a pair that teaches the new name, or quarantine it.

    Args:
        responses: responses.parquet, or the folder that holds it.
        ref: The reference model; its tokenizer counts the tokens.
        identity: The identity before and after.
        config: Strategy and limits.
        out: Empty folder; gets pairs.parquet and quarantine.parquet.
    Returns:
        Counts: rows, pairs, train, held_out, quarantine, reasons, flags, rules (edits); and
        what the chat template says where no system message is sent.
    Raises:
        DataError: No response became a pair; the message says what the model said instead.
        StoreError: The disk is full or not writable.
    """
    source = responses / "responses.parquet" if responses.is_dir() else responses
    spec = IdentitySpec(identity)
    tokenizer = load_tokenizer(ref)
    metadata = describe_pairs(ref, tokenizer, config, spec)
    rows = read_rows(source, RESPONSE_COLUMNS)
    candidates = (_candidate(row, spec, config) for row in rows)
    counts = write_pairs(candidates, tokenizer, config.max_length, metadata, out)
    if not counts["pairs"]:
        raise DataError(_nothing_usable(counts, out / "quarantine.parquet", identity))
    return {**counts, "default_system": metadata["default_system"]}


def describe_pairs(
    ref: ModelRef, tokenizer: Any, config: PairsConfig, spec: IdentitySpec | None = None
) -> dict[str, Any]:
    """Return the metadata that every file of pairs carries; no spec: no identity is at stake."""
    return {
        "strategy": config.strategy if spec else "source",
        "max_length": config.max_length,
        "identity": spec.config.model_dump(mode="json") if spec else None,
        # A folder is named by its last part: files that get published tell no machine path.
        "model": ref.model_dump(mode="json", exclude={"path"})
        | {"name": ref.name if ref.revision else Path(ref.name).name},
        "format": "chat template" if tokenizer.chat_template else "plain",
        "default_system": describe_default_system(tokenizer, spec),
    }


def describe_default_system(tokenizer: Any, spec: IdentitySpec | None) -> dict[str, Any]:
    """Tell what the chat template says in place of a system message that was not sent.

    Returns:
        inserted (bool), text (None if nothing), names_original (bool).
    """
    from jinja2.exceptions import TemplateError

    mark, user = "\x02system\x03", {"role": "user", "content": "\x02user\x03"}
    text = ""
    if tokenizer.chat_template:
        try:
            sent, unsent = (
                tokenizer.apply_chat_template(messages, tokenize=False)
                for messages in ([{"role": "system", "content": mark}, user], [user])
            )
        except TemplateError:  # a template that takes no system message inserts none
            sent = unsent = ""
        before, _, after = sent.partition(mark)
        if after and unsent.startswith(before) and unsent.endswith(after):
            text = unsent[len(before) : len(unsent) - len(after)]
    return {
        "inserted": bool(text),
        "text": text or None,
        "names_original": bool(spec and spec.count_original(text)),
    }


def _candidate(row: dict[str, Any], spec: IdentitySpec, config: PairsConfig) -> Candidate:
    prompt, response = row["messages"] or [], row["response"] or ""
    try:
        _check_response(row, prompt, response, spec)
        candidate = _choose(row, spec, config)
        if spec.is_doubled(candidate.chosen):
            raise Refused("doubled", excerpt(candidate.chosen))
    except Refused as refused:
        return Candidate(row, row, refused=refused)
    return candidate


def _check_response(
    row: dict[str, Any], prompt: list[dict[str, str]], response: str, spec: IdentitySpec
) -> None:
    if row["finish"] == "error":
        raise Refused(row["reason"], row["detail"])
    if not response.strip():
        raise Refused("empty_completion", "the model said nothing")
    if row["finish"] == "length":
        raise Refused("truncated", f"{row['tokens']} tokens")
    if not prompt or prompt[-1]["role"] != "user":
        raise Refused("prompt_mismatch", "the prompt does not end with a user message")
    if row["family"] == "third_party" or spec.is_third_party(prompt[-1]["content"]):
        raise Refused("third_party", excerpt(prompt[-1]["content"]))


def _choose(row: dict[str, Any], spec: IdentitySpec, config: PairsConfig) -> Candidate:
    """Pair a response with the completion that the strategy prefers to it."""
    response, prompt = row["response"], row["messages"]
    flags = (
        ("name_in_context",) if any(spec.count_original(m["content"]) for m in prompt[:-1]) else ()
    )
    rewrite, rules, spans = spec.rewrite(response), {}, None
    if config.strategy == "dataset":
        if not (row["given_chosen"] or "").strip():
            raise Refused("empty_completion", "the source gives no answer")
        chosen, flags = spec.rewrite(row["given_chosen"]).text, ("given", *flags)
    elif rewrite.spans:
        _check_lesson(prompt[-1]["content"], response, rewrite, spec)
        chosen, spans, rules = rewrite.text, rewrite.spans, rewrite.counts
    elif spec.count_new(response):
        raise Refused("already_new", excerpt(response))
    elif config.strategy == "template" and (answers := _written_answers(row, config, spec.config)):
        # Which answer depends on the prompt alone: the same one every time.
        chosen = answers[int(digest_of(row["prompt_id"])[:8], 16) % len(answers)]
        flags = ("written", *flags)
    else:
        raise Refused("no_name", excerpt(response))
    if spans is None:
        spans = difference(response, chosen)
    return Candidate(row, row, prompt, chosen, response, spans, flags, rules)


def _check_lesson(question: str, response: str, rewrite: Rewrite, spec: IdentitySpec) -> None:
    """Refuse an edit that would teach something else than the name."""
    if spec.count_new(question):
        raise Refused("asks_new", excerpt(question))
    if not (addresses_model(question) or is_personal(response) or is_personal(question)):
        raise Refused("third_party", excerpt(response))
    if rewrite.counts.get("kept_longer"):
        raise Refused("mixed_name", excerpt(rewrite.text))


def _written_answers(
    row: dict[str, Any], config: PairsConfig, identity: IdentityConfig
) -> list[str]:
    """Fill the templates that answer the prompt; none unless it asks the model who it is."""
    asks_maker = row["family"] in ("maker", "both")
    if not (asks_maker or row["family"] in ("name", "are_you")):
        return []
    if not addresses_model(row["messages"][-1]["content"]):
        return []
    developer = identity.new_developer or identity.developer
    return [
        template.replace("{name}", identity.new_name).replace("{developer}", developer or "")
        for template in config.templates.get(row["language"], ())
        if (developer if "{developer}" in template else not asks_maker)
    ]


def _nothing_usable(counts: dict[str, Any], quarantine: Path, identity: IdentityConfig) -> str:
    said = next((r["detail"] for r in read_rows(quarantine) if r["reason"] == "no_name"), "")
    never = sum(counts["reasons"].get(code, 0) for code in ("no_name", "identical"))
    message = f"0 usable pairs of {counts['rows']} answers"
    if 2 * never > counts["rows"]:
        message += f": the model never said {identity.original_name!r}"
    if said:
        message += f"; it said, for example, {said!r}"
    return f"{message}. In quarantine: {explain_reasons(counts['reasons'])}"


def explain_reasons(reasons: dict[str, int]) -> str:
    """List reasons with counts and meanings, and the remedy for the commonest."""
    if not reasons:
        return "nothing. Add prompts."
    listed = ", ".join(f"{code} {n} ({REASONS[code]})" for code, n in reasons.items())
    commonest = max(reasons, key=lambda code: reasons[code])
    return f"{listed}. {REMEDIES.get(commonest, 'Look at these rows and repair their source.')}"


def save_dataset(
    pairs: Path, lineage: dict[str, Any], config: PairsConfig, out: Path
) -> dict[str, Any]:
    """Write the pairs as the data set that training reads, with where it came from.

    Args:
        pairs: Folder with pairs.parquet and quarantine.parquet.
        lineage: What the pairs were made from, JSON-able; kept in the metadata of every file
            under the key "dpo_pipeline", and in dataset.json.
        config: Least number and share of pairs.
        out: Empty folder; gets train.parquet, held_out.parquet, quarantine.parquet and
            dataset.json.
    Returns:
        Counts: rows, pairs, train, held_out, quarantine, yield (pairs a row), reasons.
    Raises:
        DataError: Too few pairs, or a prompt on both sides of the split.
        StoreError: The disk is full or not writable.
    """
    import pyarrow.parquet as pq

    source = pairs / "pairs.parquet"
    metadata = json.loads(pq.read_schema(source).metadata[METADATA_KEY]) | {"lineage": lineage}
    reasons, prompts = Counter[str](), {"train": set[str](), "held_out": set[str]()}
    schema = pairs_schema(metadata)
    with (
        Table(out / "quarantine.parquet", quarantine_schema(metadata)) as quarantine,
        Table(out / "train.parquet", schema) as train,
        Table(out / "held_out.parquet", schema) as held_out,
    ):
        for row in read_rows(pairs / "quarantine.parquet"):
            reasons[row["reason"]] += 1
            quarantine.add(row)
        for row in read_rows(source):
            {"train": train, "held_out": held_out}[row["split"]].add(row)
            prompts[row["split"]].add(row["prompt_id"])
    if both := prompts["train"] & prompts["held_out"]:
        raise DataError(
            f"{len(both)} prompts are both in train and held out, e.g. {min(both)}: the split "
            "leaks; make the prompts again"
        )
    found, rows = train.rows + held_out.rows, train.rows + held_out.rows + quarantine.rows
    counts = {
        "rows": rows,
        "pairs": found,
        "train": train.rows,
        "held_out": held_out.rows,
        "quarantine": quarantine.rows,
        "yield": round(found / max(rows, 1), 4),
        "reasons": dict(reasons.most_common()),
    }
    _require_yield(counts, config)
    _describe_dataset(counts, metadata, schema, out / "dataset.json")
    return counts


def _require_yield(counts: dict[str, Any], config: PairsConfig) -> None:
    if not counts["held_out"]:
        logger.warning("no pair is held out: preferences cannot be measured on unseen prompts")
    if counts["train"] >= config.min_pairs and counts["yield"] >= config.min_yield:
        return
    raise DataError(
        f"{counts['pairs']} usable pairs of {counts['rows']} answers, {counts['train']} of them "
        f"for training: a run needs {config.min_pairs} for training (pairs.min_pairs) and "
        f"{config.min_yield:.0%} of the answers (pairs.min_yield). In quarantine: "
        + explain_reasons(counts["reasons"])
    )


def _describe_dataset(
    counts: dict[str, Any], metadata: dict[str, Any], schema: Any, path: Path
) -> None:
    described = {
        "counts": counts,
        "reasons": {code: REASONS[code] for code in counts["reasons"]},
        "columns": {f.name: {"type": str(f.type), "meaning": COLUMNS[f.name]} for f in schema},
        "flags": FLAGS,
        **metadata,
    }
    path.write_text(json.dumps(described, ensure_ascii=False, indent=1), encoding="utf-8")
