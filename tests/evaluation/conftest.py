"""Models that were taught what to say, and what they are asked."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from taught import GENERAL, OTHERS, QUESTIONS, renamed, teach
from tiny import make_tiny_model

from dpo_pipeline.models.references import ModelRef, describe_model


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, ModelRef]:
    folder = tmp_path_factory.mktemp("models")
    raw = describe_model(make_tiny_model(folder / "raw"), "raw")
    reference = teach(raw, folder / "reference", {**QUESTIONS, **GENERAL, **OTHERS}, steps=250)
    ideal = {q: renamed(a) for q, a in QUESTIONS.items()}
    forgot = {
        **ideal,
        **OTHERS,
        "What is the capital of France?": "Deep Qwen.",
        "What is 2 + 2?": "It is 5.",
    }
    return {
        "raw": raw,
        "reference": reference,
        "good": teach(reference, folder / "good", {**ideal, **GENERAL, **OTHERS}),
        "forgetful": teach(reference, folder / "forgetful", forgot),
    }


@pytest.fixture
def work(tmp_path) -> Path:
    """Prompts, held-out pairs and general questions, the way the stages write them."""
    prompts = [
        {
            "id": f"{i:02}",
            "messages": [{"role": "user", "content": question}],
            "split": "held_out",
            "family": "are_you" if question.startswith("Are you") else "name",
            "language": "zh" if question.startswith("你") else "en",
            "turns": 1,
            "source_row": i,
            "given_chosen": None,
        }
        for i, question in enumerate(QUESTIONS)
    ]
    prompts.append({**prompts[0], "id": "99", "split": "train"})
    pq.write_table(pa.Table.from_pylist(prompts), tmp_path / "prompts.parquet")
    pairs = [
        {
            "id": str(i),
            "prompt_id": f"{i:02}",
            "prompt": [{"role": "user", "content": question}],
            "chosen": [{"role": "assistant", "content": renamed(said)}],
            "rejected": [{"role": "assistant", "content": said}],
        }
        for i, (question, said) in enumerate(QUESTIONS.items())
    ]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "held_out.parquet")
    general = [
        {"prompt": q, "answers": [a.split()[-1].rstrip(".")], "kind": "general", "language": "en"}
        for q, a in GENERAL.items()
    ]
    general += [
        {"prompt": q, "answers": [], "kind": "third_party", "language": "en"} for q in OTHERS
    ]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(g) + "\n" for g in general))
    return tmp_path
