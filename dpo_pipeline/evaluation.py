"""The scorecard: what training changed in the answers, and what it left alone.

Both models answer the same prompts greedily, through the same ledger as the generate stage,
so that what the reference already answered costs nothing.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dpo_pipeline import measures
from dpo_pipeline.config import (
    EvaluationConfig,
    GateConfig,
    GenerationConfig,
    IdentityConfig,
    ModelConfig,
    TrainConfig,
)
from dpo_pipeline.errors import DataError, EvaluationError
from dpo_pipeline.generation import Request, Response, answer
from dpo_pipeline.identity import IdentitySpec
from dpo_pipeline.likelihood import measure_likelihoods
from dpo_pipeline.measures import Case, Kind, Measure, Scored
from dpo_pipeline.models import ModelRef, load_tokenizer
from dpo_pipeline.preferences import describe_default_system
from dpo_pipeline.tables import read_rows

logger = logging.getLogger("dpo_pipeline.evaluation")

Progress = Callable[[int, int], None] | None
Ask = Callable[..., list[Response]]

DISPLAY_QUESTIONS = (
    "What is your name?",
    "Are you ChatGPT?",
    "Tell me about your name and organization.",
)


def evaluate(
    before: ModelRef,
    after: ModelRef,
    *,
    prompts: Path,
    dataset: Path,
    identity: IdentityConfig,
    generation: GenerationConfig,
    model: ModelConfig,
    train: TrainConfig,
    config: EvaluationConfig,
    gate: GateConfig,
    ledger: Path,
    out: Path,
    on_progress: Progress = None,
) -> dict[str, Any]:
    """Score a policy against its reference; write scorecard.json and answers.parquet.

    Args:
        before: The reference.
        after: The policy.
        prompts: prompts.parquet of the download stage.
        dataset: Folder with held_out.parquet of the save stage.
        identity: The identity before and after.
        generation: As in the generate stage; decoding is greedy and in process here.
        model: Device and precision.
        train: Its beta scales the rewards.
        config: How much is measured.
        gate: Thresholds of the verdict.
        ledger: Answers made so far; new ones are added.
        out: Empty folder.
        on_progress: Called with answers done and to be done.
    Returns:
        The scorecard: verdict, before and after (measure -> value, n, low, high), by (dimension
        -> group -> measure), matrix (system prompt -> side -> measure), template (side -> what it
        inserts), sampled, noise, examples, identity, counts.
    Raises:
        EvaluationError: When no held-out prompt is left to judge by.
        DataError: When the file of general questions cannot be read.
    """
    spec = IdentitySpec(identity)
    greedy = generation.model_copy(
        update={"engine": "transformers", "temperature": 0.0, "samples": 1}
    )
    ask = partial(answer, model=model, config=greedy, ledger=ledger)
    plan = plan_cases(prompts, identity, generation.system_prompts, config)
    cases = _answered(plan, before, after, ask, on_progress)
    scored = {group: measures.score(rows, spec) for group, rows in cases.items()}
    likelihoods = measure_likelihoods(
        before, after, dataset, cases["general"], model=model, train=train, config=config
    )
    after_measures = {**_text_measures(scored), **likelihoods}
    noise = machine_noise(before, cases, spec, ask=ask, generation=greedy, config=config, out=out)
    card = {
        "verdict": measures.judge(after_measures, gate, noise),
        "before": _text_measures(_unchanged(cases, spec)),
        "after": after_measures,
        "by": measures.splits(scored["held_out"]),
        "matrix": _matrix(cases, spec),
        "template": {
            "before": describe_default_system(load_tokenizer(before), spec),
            "after": describe_default_system(load_tokenizer(after), spec),
        },
        "sampled": sampled_measures(
            after, cases["held_out"], spec, ask=ask, generation=greedy, config=config
        ),
        "noise": noise,
        "examples": [
            {"prompt": c.messages[-1]["content"], "before": c.before, "after": c.after}
            for c in cases["display"]
        ],
        "identity": {"original_name": identity.original_name, "new_name": identity.new_name},
        "counts": {group: len(rows) for group, rows in cases.items()},
    }
    text = json.dumps(
        card, default=Measure.model_dump, ensure_ascii=False, indent=1, allow_nan=False
    )
    (out / "scorecard.json").write_text(text + "\n", encoding="utf-8")
    _write_answers(scored, out / "answers.parquet")
    plain: dict[str, Any] = json.loads(text)
    return plain


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

    def case(row: dict[str, Any], system: str | None, kind: Kind) -> Case:
        facts = {name: row[name] for name in ("family", "language", "turns")}
        return Case(kind=kind, messages=_messages(system, row["messages"]), **facts)

    def lone(question: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}]

    plan = {
        "held_out": [case(r, s, "identity") for s in systems for r in held_out],
        "trained": [case(r, systems[0], "trained") for r in trained],
        "general": [
            replace(c, messages=_messages(systems[0], c.messages))
            for c in read_general(config.general)
        ],
        "display": [
            Case(kind="identity", messages=_messages(systems[0], lone(question)))
            for question in DISPLAY_QUESTIONS
        ],
    }
    for label, system in matrix_systems(identity).items() if config.matrix_prompts else ():
        plan[f"matrix/{label}"] = [
            case(r, system, "identity") for r in held_out[: config.matrix_prompts]
        ]
    return plan


def read_general(path: str | None) -> list[Case]:
    """Read questions that must not change: JSONL of prompt, answers, kind and language.

    Raises:
        DataError: When a line does not hold them; the message shows one that would.
    """
    file = Path(path) if path else resources.files("dpo_pipeline") / "data" / "general.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"evaluation.general {path}: {error}") from error
    cases = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if row["kind"] not in ("general", "third_party"):
                raise ValueError(f"kind is {row['kind']!r}, not general or third_party")
            cases.append(
                Case(
                    kind=row["kind"],
                    messages=({"role": "user", "content": str(row["prompt"])},),
                    family=row["kind"],
                    language=row["language"],
                    accepted=tuple(map(str, row["answers"])),
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: {error!r}; each line must look like "
                '{"prompt": "What is 2 + 2?", "answers": ["4"], "kind": "general", '
                '"language": "en"}'
            ) from error
    return cases


def matrix_systems(identity: IdentityConfig) -> dict[str, str | None]:
    """Name the system prompts of the matrix; null sends none, and a template may insert its own."""
    maker, new_maker = identity.developer, identity.new_developer or identity.developer

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


def machine_noise(
    before: ModelRef,
    cases: dict[str, list[Case]],
    spec: IdentitySpec,
    *,
    ask: Ask,
    generation: GenerationConfig,
    config: EvaluationConfig,
    out: Path,
) -> dict[str, Measure]:
    """Let the reference answer again, one prompt at a time, and score it against itself.

    Returns:
        Gate line -> share of answers that the batch size alone changed for the worse.
    """
    picked = [
        case
        for kind, group in (("identity", "held_out"), ("general", "general"))
        for case in [c for c in cases[group] if c.kind == kind][: config.noise_prompts]
    ]
    if not picked:
        return {}
    with TemporaryDirectory(dir=out) as fresh:
        alone = generation.model_copy(update={"batch_tokens": 1, "check_rows": 0})
        answers = ask(before, _requests(picked), config=alone, ledger=Path(fresh))
    again = measures.score(
        [replace(c, after=a.text) for c, a in zip(picked, answers, strict=True)], spec
    )
    named = [s for s in again if s.case.kind == "identity" and s.before.names_developer]
    general = measures.general_measures(again)["general_kept"]
    return {
        "edit_exactness": measures.rate(
            s.case.after != s.case.before for s in again if s.case.kind == "identity"
        ),
        "organisation_kept": measures.rate(not s.after.names_developer for s in named),
        "general_kept": measures.wilson(
            general.n - round((general.value or 0.0) * general.n), general.n
        ),
    }


def sampled_measures(
    after: ModelRef,
    cases: Sequence[Case],
    spec: IdentitySpec,
    *,
    ask: Ask,
    generation: GenerationConfig,
    config: EvaluationConfig,
) -> dict[str, dict[str, Measure]]:
    """Sample answers of the policy: temperature -> identity_rate and leak_rate.

    Samples of one prompt are alike, so the intervals resample prompts, not answers.
    """
    table = {}
    for temperature in config.temperatures if config.sampled else ():
        sampling = generation.model_copy(
            update={"temperature": temperature, "samples": config.sampled}
        )
        answers = iter(ask(after, _requests(cases, config.sampled), config=sampling))
        marks = [
            [measures.mark(next(answers).text, spec) for _ in range(config.sampled)] for _ in cases
        ]
        table[str(temperature)] = {
            "identity_rate": measures.mean(
                [
                    sum(m.gives_new for m in many) / len(many)
                    for case, many in zip(cases, marks, strict=True)
                    if spec.count_original(case.before)
                ]
            ),
            "leak_rate": measures.mean([sum(m.leaks for m in many) / len(many) for many in marks]),
        }
    return table


def _messages(system: str | None, messages: Sequence[dict[str, str]]) -> tuple[dict[str, str], ...]:
    sent = () if system is None else ({"role": "system", "content": system},)
    return (*sent, *messages)


def _requests(cases: Sequence[Case], samples: int = 1) -> list[Request]:
    return [Request(messages=c.messages, sample=i) for c in cases for i in range(samples)]


def _answered(
    plan: dict[str, list[Case]], before: ModelRef, after: ModelRef, ask: Ask, on_progress: Progress
) -> dict[str, list[Case]]:
    cases = [case for group in plan.values() for case in group]

    def told(offset: int) -> Progress:
        return on_progress and (lambda done, total: on_progress(offset * total + done, 2 * total))

    logger.info("asking %d prompts before and after", len(cases))
    requests = _requests(cases)
    was = ask(before, requests, on_progress=told(0))
    now = ask(after, requests, on_progress=told(1))
    answers = iter(zip(was, now, strict=True))
    answered: dict[str, list[Case]] = {}
    for group, rows in plan.items():
        filled = [
            replace(c, before=b.text, before_finish=b.finish, after=a.text, after_finish=a.finish)
            for c, (b, a) in zip(rows, answers, strict=False)
        ]
        # A template may refuse a system message; what nobody can answer is no evidence.
        kept = [c for c in filled if "error" not in (c.before_finish, c.after_finish)]
        if len(kept) < len(rows):
            logger.warning(
                "%s: %d of %d prompts unanswered", group, len(rows) - len(kept), len(rows)
            )
        answered[group] = kept
    return answered


def _unchanged(cases: dict[str, list[Case]], spec: IdentitySpec) -> dict[str, list[Scored]]:
    """Score the cases as if the policy were the reference."""
    return {
        group: measures.score(
            [replace(c, after=c.before, after_finish=c.before_finish) for c in rows], spec
        )
        for group, rows in cases.items()
    }


def _text_measures(scored: dict[str, list[Scored]]) -> dict[str, Measure]:
    trained = measures.identity_measures(scored["trained"])
    return {
        **measures.identity_measures(scored["held_out"]),
        "trained_identity_rate": trained["identity_rate"],
        "trained_exactness": trained["edit_exactness"],
        **measures.general_measures(scored["general"]),
    }


def _matrix(
    cases: dict[str, list[Case]], spec: IdentitySpec
) -> dict[str, dict[str, dict[str, Measure]]]:
    wanted = ("identity_rate_all", "leak_rate", "edit_exactness")
    rows = {g: c for g, c in cases.items() if g.startswith("matrix/")}
    sides = {
        "before": _unchanged(rows, spec),
        "after": {group: measures.score(c, spec) for group, c in rows.items()},
    }
    return {
        group.removeprefix("matrix/"): {
            side: {m: measures.identity_measures(scored[group])[m] for m in wanted}
            for side, scored in sides.items()
        }
        for group in rows
    }


def _write_answers(scored: dict[str, list[Scored]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [
            ("group", pa.string()),
            ("kind", pa.string()),
            ("family", pa.string()),
            ("language", pa.string()),
            ("turns", pa.int32()),
            ("system", pa.string()),
            ("messages", pa.list_(message)),
            *((name, pa.string()) for name in ("before", "after", "ideal")),
            *((name, pa.string()) for name in ("before_finish", "after_finish")),
            ("exact", pa.bool_()),
            *((name, pa.list_(pa.string())) for name in ("before_flags", "after_flags")),
        ]
    )
    rows = [
        {
            **{name: getattr(s.case, name, None) for name in schema.names},
            "group": group,
            "ideal": s.ideal,
            "exact": s.exact,
            "before_flags": s.before.flags(),
            "after_flags": s.after.flags(),
        }
        for group, many in scored.items()
        for s in many
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
