"""The reference's own answers to general prompts: what training holds where it was."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import pyarrow as pa

from dpo_pipeline.answers.answering import Progress, answer
from dpo_pipeline.answers.records import How, Request, with_system
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.prompts.retention import RetentionPrompt, read_retention
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.records import Record
from dpo_pipeline.store.tables import messages_type, new_table, read_rows

COMMON = 0.05  # share of the prompts from which on their language counts


class RetentionStats(Record):
    """How many answers there are to hold, by family of the prompt."""

    rows: int
    families: dict[str, int]


def common_languages(prompts: Path) -> tuple[str, ...]:
    """Return the languages in which a fair share of the rows of a Parquet file is, sorted."""
    counts = Counter(str(row["language"]) for row in read_rows(prompts, ["language"]))
    return tuple(sorted(k for k, n in counts.items() if n >= COMMON * counts.total()))


def pick_retention(file: Path, rows: int | None) -> list[RetentionPrompt]:
    """Draw so many retention prompts, the same every time.

    Of all languages: a name that is taught in one comes up in the others as well.
    """
    known = read_retention(str(file))
    return sorted(known, key=lambda p: digest_of([dict(m) for m in p.messages]))[:rows]


def answer_retention(
    ref: ModelRef,
    picked: Sequence[RetentionPrompt],
    tokens: int,
    out: Path,
    on_progress: Progress | None = None,
    **how: Unpack[How],
) -> RetentionStats:
    """Answer prompts greedily, each under one of the system prompts in turn, up to so many tokens.

    Writes retention.parquet to `out`; a prompt that was not answered is left out.
    """
    systems = how["config"].system_prompts
    how["config"] = how["config"].model_copy(
        update={"temperature": 0.0, "samples": 1, "max_new_tokens": tokens}
    )
    sent = [p.system or systems[i % len(systems)] for i, p in enumerate(picked)]
    asked = [with_system(s, p.messages) for s, p in zip(sent, picked, strict=True)]
    said = answer(ref, [Request(messages) for messages in asked], on_progress, **how)
    text, number = pa.string(), pa.int32()
    schema = pa.schema(
        {"messages": messages_type(), "family": text, "language": text}
        | {"response": text, "finish": text, "tokens": number}
    )
    families: Counter[str] = Counter()
    with new_table(out / "retention.parquet", schema) as add:
        for prompt, messages, response in zip(picked, asked, said, strict=True):
            if response.finish == "error" or not response.text:
                continue
            told = {"family": prompt.family, "language": prompt.language}
            facts = response.model_dump(include={"finish", "tokens"})
            add({"messages": list(messages), "response": response.text, **told, **facts})
            families[prompt.family] += 1
    return RetentionStats(rows=families.total(), families=dict(sorted(families.items())))
