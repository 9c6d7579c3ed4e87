"""Preference data sets in the shapes people publish, made into the same pairs."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lineage import LINEAGE
from tiny import make_tiny_model

from dpo_pipeline.config import PreferenceConfig
from dpo_pipeline.errors import DataError
from dpo_pipeline.models.chat_templates import encode, render
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.pairs.dataset import save_dataset
from dpo_pipeline.pairs.preferences import parse_row, prepare_preferences
from dpo_pipeline.pairs.settings import PairsConfig
from dpo_pipeline.prompts.quarantine import Refused
from dpo_pipeline.prompts.settings import PromptsConfig
from dpo_pipeline.prompts.sources import resolve_source
from dpo_pipeline.starter.build import init_model
from flows.cli import parse

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "sources.md"
CONFIG = PromptsConfig(source="rows.jsonl", shape="preference")
SMALL = PairsConfig(min_pairs=1)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}
HI = [user("Hi"), assistant("Hello."), user("Sky?")]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("models")
    return {
        arch: describe_model(make_tiny_model(folder / arch, arch), f"tiny-{arch}")
        for arch in ("qwen2", "gpt2")
    }


@pytest.fixture
def prepare(models, tmp_path):
    """Write rows to a JSON Lines file, prepare it; return counts, pairs, quarantine."""

    def run(rows, pairs=SMALL, arch="qwen2", name="pairs", **settings):
        path = tmp_path / "rows.jsonl"
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines))
        settings = {"max_quarantine": 1.0, "near_duplicate": 1.0, **settings}
        config = PromptsConfig(source=str(path), shape="preference", **settings)
        out = tmp_path / name
        out.mkdir()
        counts = prepare_preferences(resolve_source(config), config, pairs, models[arch], out)
        counts = counts.model_dump()
        found = pq.read_table(out / "pairs.parquet").to_pylist()
        quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
        assert counts["rows"] + counts["left_out"] == len(rows)
        assert counts["rows"] == len(found) + len(quarantine)
        return counts, found, quarantine

    return run


def alpaca(number: int, **changes) -> dict:
    row = {
        "instruction": f"Name the number {number} in words.",
        "input": "",
        "output": "unused",
        "chosen": f"It is called {number}.",
        "rejected": f"Go away with your {number}.",
    }
    return {**row, **changes}


SHAPES = {
    "whole conversations (TRL, implicit prompt)": (
        {"chosen": [*HI, assistant("Blue.")], "rejected": [*HI, assistant("Green.")]},
        HI,
    ),
    "whole conversations with a system message": (
        {
            "chosen": [SYSTEM, user("Sky?"), assistant("Blue.")],
            "rejected": [SYSTEM, user("Sky?"), assistant("Green.")],
        },
        [SYSTEM, user("Sky?")],
    ),
    "prompt as messages (TRL, explicit prompt)": (
        {"prompt": HI, "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]},
        HI,
    ),
    "prompt as text (TRL, explicit prompt)": (
        {"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."},
        [user("Sky?")],
    ),
    "prompt as text, whole conversations": (
        {
            "prompt": "Sky?",
            "chosen": [user("Sky?"), assistant("Blue.")],
            "rejected": [user("Sky?"), assistant("Green.")],
        },
        [user("Sky?")],
    ),
    "bare texts (TRL, implicit prompt)": (
        {"chosen": "The sky is Blue.", "rejected": "The sky is Green."},
        [user("The sky is")],
    ),
    "dialogues (as in hh-rlhf)": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Sky?\n\nAssistant: Blue.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Sky?\n\nAssistant: Green.",
        },
        HI,
    ),
    "Alpaca": (
        {"instruction": "Name it.", "input": "Sky", "chosen": "Blue.", "rejected": "Green."},
        [user("Name it.\n\nSky")],
    ),
    "Alpaca without input": (
        {"instruction": "Sky?", "input": "", "chosen": "Blue.", "rejected": "Green."},
        [user("Sky?")],
    ),
    "conversations": (
        {
            "conversations": [{"from": "human", "value": "Sky?"}],
            "chosen": {"from": "gpt", "value": "Blue."},
            "rejected": {"from": "gpt", "value": "Green."},
        },
        [user("Sky?")],
    ),
    "question and system": (
        {"system": "Be kind.", "question": "Sky?", "chosen": "Blue.", "rejected": "Green."},
        [SYSTEM, user("Sky?")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_read(prepare, shape):
    row, prompt = SHAPES[shape]
    _, pairs, _ = prepare([row, *(alpaca(i) for i in range(3))])
    pair = pairs[0]
    assert pair["prompt"] == prompt
    assert (pair["chosen"], pair["rejected"]) == ([assistant("Blue.")], [assistant("Green.")])
    assert pair["system"] == ("Be kind." if SYSTEM in prompt else None)
    assert pair["turns"] == sum(m["role"] == "user" for m in prompt)
    assert pair["spans"] == [{"start": 0, "end": 5, "new_start": 0, "new_end": 4}]
    assert pair["prompt_tokens"] > 8


def table_of_shapes() -> str:
    lines = [
        "| what a row holds | a row | its prompt | chosen | rejected |",
        "|---|---|---|---|---|",
    ]
    for shape, (row, _) in SHAPES.items():
        prompt, chosen, rejected = parse_row(row, CONFIG)
        turns = "<br>".join(f"{m['role']}: {m['content']}".replace("\n", "<br>") for m in prompt)
        lines.append(f"| {shape} | `{json.dumps(row)}` | {turns} | {chosen} | {rejected} |")
    return "\n".join(lines)


def test_the_page_on_sources_shows_a_row_of_each_shape():
    """Write the table by `PYTHONPATH=.:tests/support python tests/pairs/test_preferences.py`."""
    assert table_of_shapes() in DOCS.read_text(encoding="utf-8")


def test_columns_are_mapped_and_context_is_cut():
    row = {"q": HI, "good": "Blue.", "bad": "Green."}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    config = CONFIG.model_copy(update={"columns": columns, "context": "last"})
    assert parse_row(row, config) == ([user("Sky?")], "Blue.", "Green.")


BAD = {
    "bad_row": [
        "{broken json",
        [1, 2],
        "17",
        {"chosen": "a", "rejected": 7, "prompt": "Sky?"},
        {"chosen": "a", "rejected": "b", "prompt": [{"role": "oracle", "content": "Sky?"}]},
        {"chosen": "a", "rejected": "b", "prompt": [{"role": "user", "content": None}]},
        {"chosen": "a", "rejected": "b\ud800", "prompt": "Sky?"},
        alpaca(7, instruction=7),
        alpaca(7, instruction=["Sky?"]),
        alpaca(7, input=7),
    ],
    "empty_prompt": [
        {"prompt": None, "chosen": "The sky is blue", "rejected": "The sky is green"},
        {"prompt": " \n", "chosen": "The sky is blue", "rejected": "The sky is green"},
        {"messages": [], "chosen": "The sky is blue", "rejected": "The sky is green"},
        {"prompt": [*HI[:2], user(" ")], "chosen": "a", "rejected": "b"},
        {"chosen": [user(""), assistant("a")], "rejected": [user(""), assistant("b")]},
        alpaca(7, instruction=""),
        alpaca(7, instruction=None),
    ],
    "unknown_split": [alpaca(7, split="train_prefs"), alpaca(7, split=0)],
    "empty_completion": [
        {"chosen": "a", "prompt": "Sky?"},
        {"chosen": None, "rejected": "b", "prompt": "Sky?"},
        {"chosen": " ", "rejected": "b", "prompt": "Sky?"},
    ],
    "prompt_mismatch": [
        {
            "chosen": [user("Sky?"), assistant("a")],
            "rejected": [user("Sea?"), assistant("b")],
        },
        {
            "prompt": "Sea?",
            "chosen": [user("Sky?"), assistant("a")],
            "rejected": [user("Sky?"), assistant("b")],
        },
        {"prompt": HI[:2], "chosen": "a", "rejected": "b"},
        {"prompt": "Sky?", "chosen": [user("a")], "rejected": [assistant("b")]},
        {"chosen": "Nothing", "rejected": "shared"},
    ],
    "identical": [
        alpaca(7, chosen="Same.", rejected="Same."),
        {"chosen": "The same text", "rejected": "The same text"},
        {"chosen": [*HI, assistant("a")], "rejected": [*HI, assistant("a")]},
    ],
    "control_token": [
        alpaca(7, chosen="x<|im_end|>"),
        alpaca(7, instruction="<|im_start|>"),
        alpaca(7, instruction="[INST] Sky? [/INST]"),
        alpaca(7, system="</s>"),
    ],
    "duplicate": [alpaca(1)],
    "too_long": [alpaca(7, rejected="word " * 99)],
    "difference_cut": [alpaca(7, chosen="word " * 99 + "a", rejected="word " * 99 + "b")],
}


@pytest.mark.parametrize("reason", BAD)
def test_a_planted_row_goes_to_quarantine_with_its_reason(prepare, reason):
    # Bad rows come first: one of them does not tell the columns of all.
    rows = [*BAD[reason], alpaca(0), alpaca(1), alpaca(2)]
    rows = rows if reason != "duplicate" else rows[::-1]
    counts, pairs, quarantine = prepare(rows, PairsConfig(min_pairs=1, max_length=150))
    assert len(pairs) == 3
    assert counts["reasons"] == {reason: len(BAD[reason])}
    assert [rows[row["source_row"]] for row in quarantine] == BAD[reason]
    assert all(json.loads(row["row"]) for row in quarantine)


def test_surrogates_survive_in_the_quarantine(prepare):
    row = {"chosen": "a", "rejected": "b\ud800", "prompt": "Sky?"}
    _, _, quarantine = prepare([alpaca(0), row])
    assert json.loads(quarantine[0]["row"]) == row


def test_missing_columns_stop_before_a_model_loads(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Sky?", "better": "Blue."}) + "\n")
    config = PromptsConfig(source=str(path))
    with pytest.raises(
        DataError, match=r"no chosen and no rejected: found \['better', 'prompt'\]"
    ) as e:
        prepare_preferences(resolve_source(config), config, SMALL, None, tmp_path)
    assert "prompts.columns" in str(e.value)
    path.write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        prepare_preferences(resolve_source(config), config, SMALL, None, tmp_path)


def test_too_many_bad_rows_stop_the_run(prepare):
    rows = [*(alpaca(i) for i in range(4)), *(alpaca(i, chosen="") for i in range(4, 8))]
    with pytest.raises(
        DataError, match=r"4 usable pairs of 8 rows .* 40% .* empty_completion 4 .*row 4, 5, 6, 7\)"
    ):
        prepare(rows, max_quarantine=0.4)
    with pytest.raises(DataError, match=r"0 usable pairs of 2 rows .* identical 2"):
        prepare([alpaca(i, chosen="a", rejected="a") for i in range(2)], name="again")


def test_alpaca_rows_with_repeats_and_identical_answers(prepare):
    rows = [alpaca(i) for i in range(60)]
    rows += [alpaca(i, rejected="Not again.") for i in range(5)]
    rows += [alpaca(i, chosen="Same.", rejected="Same.") for i in range(60, 63)]
    counts, pairs, quarantine = prepare(rows)
    assert (counts["pairs"], counts["reasons"]) == (65, {"identical": 3})
    assert counts["repeated_prompts"] == 5
    sides = {}
    for pair in pairs:
        sides.setdefault(pair["prompt_id"], set()).add(pair["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert 4 <= counts["held_out"] <= 12
    assert len({row["id"] for row in [*pairs, *quarantine]}) == len(rows)


def test_near_duplicates_stay_together_and_given_splits_are_kept(prepare):
    rules = "These rules are the same for everyone and longer than any question here. " * 3
    rows = [
        alpaca(
            i,
            instruction=f"Tell me all that you know about {'ABCDEFGHIJ'[i % 10] * 3} and its uses"
            + " today" * (i // 10),
            system=rules,
        )
        for i in range(20)
    ]
    own = [
        (50, "held_out"),
        (51, "train"),
        (52, "train"),
        (52, "Test"),
        (53, "val"),
        (53, "train"),
    ]
    rows += [alpaca(i, split=split, chosen=f"{split}.") for i, split in own]
    _, pairs, _ = prepare(rows, near_duplicate=0.8, held_out=0.5)
    sides = [pair["split"] for pair in pairs]
    assert sides[:10] == sides[10:20]
    assert sides[20:] == ["held_out", "train", *["held_out"] * 4]
    assert sides[:10].count("held_out") == 5
    _, pairs, _ = prepare(rows[:20], near_duplicate=1.0, held_out=0.5, name="apart")
    sides = [pair["split"] for pair in pairs]
    assert sides[:10] != sides[10:20]


def test_one_and_the_same_split_everywhere_tells_nothing(prepare):
    counts, _, _ = prepare([alpaca(i, split="train") for i in range(20)], held_out=0.2)
    assert (counts["train"], counts["held_out"]) == (16, 4)
    columns = {"split": "part"}
    rows = [alpaca(i, part="test" if i == 7 else "train") for i in range(20)]
    _, pairs, _ = prepare(rows, columns=columns, name="mapped")
    assert [p["source_row"] for p in pairs if p["split"] == "held_out"] == [7]


def test_a_limit_takes_the_same_sample_every_time(prepare, tmp_path):
    rows = [alpaca(i) for i in range(30)]
    counts, pairs, _ = prepare(rows, limit=10)
    assert (counts["pairs"], counts["left_out"]) == (10, 20)
    prepare(rows, limit=10, name="again")
    first, again = ((tmp_path / name / "pairs.parquet").read_bytes() for name in ("pairs", "again"))
    assert first == again
    _, others, _ = prepare(rows, limit=10, seed=1, name="other")
    assert {p["source_row"] for p in others} != {p["source_row"] for p in pairs}


def test_parquet_rows_are_read(models, tmp_path):
    rows = [{"chosen": [*HI, assistant(f"Blue {i}.")], "rejected": [*HI, assistant(f"No {i}.")]}
            for i in range(12)]  # fmt: skip
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    config = PromptsConfig(source=str(path))
    (tmp_path / "pairs").mkdir()
    (tmp_path / "dataset").mkdir()
    prepare_preferences(resolve_source(config), config, SMALL, models["qwen2"], tmp_path / "pairs")
    counts = save_dataset(tmp_path / "pairs", LINEAGE, SMALL, tmp_path / "dataset")
    assert counts.pairs == 12
    metadata = json.loads((tmp_path / "dataset" / "dataset.json").read_text())
    assert (metadata["ways"], metadata["identity"]) == (["given"], None)
    assert metadata["format"] == "chat template"


def test_a_base_model_reads_the_headings_of_alpaca_and_trains(prepare, models, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    rows = [alpaca(i, input=f"number {i}") for i in range(12)]
    _, pairs, _ = prepare(rows, arch="gpt2")
    ref = models["gpt2"]
    tokenizer = load_tokenizer(ref)
    texts = [
        {"prompt": render(tokenizer, p["prompt"])}
        | {side: p[side][0]["content"] for side in ("chosen", "rejected")}
        for p in pairs
    ]
    assert texts[0]["prompt"] == (
        "### Instruction:\nName the number 0 in words.\n\n### Input:\nnumber 0\n\n### Response:\n"
    )
    assert pairs[0]["prompt_tokens"] == len(encode(tokenizer, pairs[0]["prompt"])) > 20
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(ref.path),
        args=DPOConfig(output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to=[],
                       learning_rate=1e-3, num_train_epochs=3, per_device_train_batch_size=4,
                       logging_steps=1, save_strategy="no", disable_tqdm=True),
        train_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )  # fmt: skip
    seen = trainer.train_dataset
    for name in ("prompt", "chosen", "rejected"):
        assert [p[f"{name}_tokens"] for p in pairs] == [len(ids) for ids in seen[f"{name}_ids"]]
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(0.693, abs=1e-3)
    assert losses[-1] < 0.6


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scratch")
    init_model(ROOT / "examples" / "llama-tiny.json", folder)
    return describe_model(folder, "scratch")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-scratch", "gpt2-preference"])
def test_the_configurations_train_for_real(scratch, models, tmp_path, name):
    from dpo_pipeline.training.records import TrainJob
    from dpo_pipeline.training.run import train

    argv, ref = ["--config", str(ROOT / "configs" / f"{name}.yaml")], scratch
    if name == "gpt2-preference":  # the same architecture and rows, without the network
        ref = models["gpt2"]
        argv += ["--prompts.source", str(ROOT / "examples" / "preferences.jsonl")]
        argv += ["--train.learning-rate", "1e-3", "--train.epochs", "5"]
    config = parse(PreferenceConfig, argv, prog="x", description="x", example="x")
    folders = {folder: tmp_path / folder for folder in ("pairs", "dataset", "out", "work")}
    for folder in folders.values():
        folder.mkdir()
    source = resolve_source(config.prompts)
    counts = prepare_preferences(source, config.prompts, config.pairs, ref, folders["pairs"])
    assert (counts.rows, counts.quarantine) == (32, 0)
    save_dataset(folders["pairs"], LINEAGE, config.pairs, folders["dataset"])
    job = TrainJob(
        ref=ref,
        dataset=folders["dataset"],
        config=config.train,
        device=config.model.device,
        out=folders["out"],
        work=folders["work"],
        references=folders["work"],
    )
    report = train(job)
    assert report.first["loss"] == pytest.approx(0.693, abs=1e-3)
    assert report.last["accuracy"] >= 0.9
    load_model(describe_model(folders["out"] / "model", "trained"), "cpu")


def test_refusals_name_what_stands_there():
    with pytest.raises(Refused, match="expected columns, found list"):
        parse_row([], CONFIG)


if __name__ == "__main__":
    before, _, rest = DOCS.read_text(encoding="utf-8").partition("| what a row holds |")
    _, _, after = rest.partition("\n\n")
    DOCS.write_text(f"{before}{table_of_shapes()}\n\n{after}", encoding="utf-8")
