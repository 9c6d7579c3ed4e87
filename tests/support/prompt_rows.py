"""Rows of sources, and the stage run on them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from identities import DEEP_QWEN

from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.prompts.preparation import prepare_prompts
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.sources import resolve_source

Rows = list[dict[str, Any]]


QWEN = DEEP_QWEN


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def prepare(
    path: Path | str, identity: IdentityConfig = QWEN, **fields: Any
) -> tuple[dict[str, Any], Rows, Rows]:
    """Run the stage: its counts, the prompts, the quarantine."""
    config = PromptsConfig(source=str(path), **fields)
    out = Path(path).parent / f"out{len(list(Path(path).parent.iterdir()))}"
    out.mkdir()
    counts = prepare_prompts(resolve_source(config), config, identity, out).model_dump()
    assert sorted(file.name for file in out.iterdir()) == ["prompts.parquet", "quarantine.parquet"]
    prompts, quarantine = (
        pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("prompts", "quarantine")
    )
    assert counts["rows"] == len(prompts) == counts["train"] + counts["held_out"]
    assert counts["quarantined"] == len(quarantine) == sum(counts["reasons"].values())
    assert len({prompt["id"] for prompt in prompts}) == len(prompts)
    return counts, prompts, quarantine


def numbered(count: int, text: str = "Ask number {} who it is") -> Rows:
    """Make prompts that are no near-duplicates of one another."""
    return [{"prompt": text.format(f"{n} {n + 100} {n + 200}")} for n in range(count)]


TURNS = [("user", "Hi there"), ("assistant", "I am Qwen."), ("user", "Who made you?")]


ANSWER = "Deep Qwen, of Alibaba Cloud."


SHAPES: dict[str, dict[str, Any]] = {
    "conversations": {
        "conversations": [
            {"from": "system", "value": "Be kind."},
            {"from": "human", "value": "Hi there"},
            {"from": "gpt", "value": "I am {{name}}."},
            {"from": "human", "value": "Who made you?"},
            {"from": "gpt", "value": "{{name}}, of {{author}}."},
        ]
    },
    "messages": {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi there"},
            {"role": "assistant", "content": "I am <NAME>."},
            {"role": "user", "content": "Who made you?"},
            {"role": "assistant", "content": "<NAME>, of <AUTHOR>."},
        ]
    },
    "alpaca": {
        "instruction": "Who made you?",
        "input": "",
        "output": "{{name}}, of {{author}}.",
        "history": [["Hi there", "I am {{name}}."]],
    },
    "query-response": {
        "query": "Who made you?",
        "response": "{{NAME}}, of {{AUTHOR}}.",
        "history": [["Hi there", "I am {{NAME}}."]],
    },
    "prompt": {
        "prompt": [{"role": role, "content": text} for role, text in TURNS],
        "completion": [{"role": "assistant", "content": "[NAME], of [AUTHOR]."}],
    },
}


def other(shape: str) -> dict[str, Any]:
    """Make a row of the same shape in another wording, for the other side of the split."""
    text = json.dumps(SHAPES[shape]).replace("Who made you?", "Completely different?")
    return dict(json.loads(text))


TWO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
