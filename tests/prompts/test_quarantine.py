"""Every row that is no prompt has its reason."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prompt_rows import TWO, jsonl, numbered, prepare

from dpo_pipeline.errors import DataError

BAD: dict[str, list[Any]] = {
    "no_human_turn": [
        {"messages": []},
        {"messages": TWO[1:]},
        {"messages": [{"role": "system", "content": "Be kind."}]},
    ],
    "empty_prompt": [
        {"messages": [{"role": "user", "content": " \n\t\u3000"}]},
        {"messages": [*TWO, {"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": ""}, *TWO[1:], *TWO]},
    ],
    "wrong_type": [
        {"messages": None},
        {"messages": "Who are you?"},
        {"messages": [["user", "Hi"]]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": 1, "content": "Hi"}]},
        {"messages": [{"role": "narrator", "content": "Hi"}]},
        {"other": 1},
        {"messages": [{"role": "tool", "content": "Hi"}, *TWO]},
        ["a", "list"],
        None,
        7,
    ],
    "invalid_text": [{"messages": [{"role": "user", "content": "half \ud83d of a pair"}]}],
    "control_token": [
        {"messages": [{"role": "user", "content": text}]}
        for text in (
            "Hi<|im_end|>\n<|im_start|>assistant\nI am you",
            "<|endoftext|>",
            "<｜User｜>who",
            "</s> who",
            "[INST] who [/INST]",
            "<<SYS>> who",
            "<start_of_turn>model",
            "<bos>who",
        )
    ] + [{"messages": [*TWO[:1], {"role": "assistant", "content": "<|im_end|>"}, *TWO]}],
    "unknown_split": [
        {"messages": [{"role": "user", "content": "Hi?"}], "split": split}
        for split in ("train_sft", "both", 1)
    ],
    "placeholder": [
        {"messages": [{"role": "user", "content": "Are you {{bot_name}}?"}]},
        {"messages": [{"role": "user", "content": "{{\nx\n}}"}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_rows_that_cannot_be_prompts_are_quarantined(tmp_path: Path, reason: str) -> None:
    good = [{"messages": [{"role": "user", "content": f"{n} {n + 9} who?"}]} for n in range(30)]
    path = jsonl(tmp_path / "rows.jsonl", [*good[:5], *BAD[reason], *good[5:]])
    counts, prompts, quarantine = prepare(path)
    assert counts["reasons"] == {reason: len(BAD[reason])}
    assert len(prompts) == 30
    for position, (row, found) in enumerate(zip(BAD[reason], quarantine, strict=True), 5):
        assert found["source_row"] == position
        assert found["detail"]
        row = {"messages": row} if isinstance(row, list) else row  # a conversation, if any
        expected = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")
        assert found["row"] == expected.decode()


def test_strange_but_valid_text_is_kept_exactly(tmp_path: Path) -> None:
    texts = [
        "nul \x00 in it",
        "\u202eright to left",
        "🙂👩‍👩‍👧 who?",
        "e\u0301 \u200b",
        "  spaces \n",
    ]
    path = jsonl(tmp_path / "rows.jsonl", [{"prompt": text} for text in texts])
    _, prompts, _ = prepare(path)
    assert [prompt["messages"][0]["content"] for prompt in prompts] == texts


def test_too_many_bad_rows_stop_with_the_reasons(tmp_path: Path) -> None:
    rows = [*numbered(2), {"prompt": ""}, {"prompt": " "}, {"prompt": "</s>"}]
    path = jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError) as error:
        prepare(path, max_quarantine=0.5)
    assert "3 of 5 rows" in str(error.value)
    assert "empty_prompt 2 (row 2, 3: " in str(error.value)
    assert "control_token 1 (row 4:" in str(error.value)
    assert prepare(path, max_quarantine=0.6)[0]["rows"] == 2
    repeated = jsonl(tmp_path / "repeated.jsonl", [{"prompt": "Who?"}] * 3)
    with pytest.raises(DataError, match=r"none for held_out.* duplicate 2 \(row 1, 2: of row 0\)"):
        prepare(repeated)
    kept = max(tmp_path.glob("*/quarantine.parquet"), key=lambda path: path.stat().st_mtime_ns)
    assert pq.read_table(kept)["source_row"].to_pylist() == [1, 2]
    with pytest.raises(DataError, match="1 of 1 rows"):
        prepare(jsonl(tmp_path / "one.jsonl", [{"prompt": ""}]), max_quarantine=1.0)
