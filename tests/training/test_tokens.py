"""Tokens are TRL's, no pair gets lost, and what goes through the model at once fits."""

import pyarrow.parquet as pq
import pytest
from tiny import make_tiny_model
from trained import pair, write_pairs

from dpo_pipeline.errors import DataError
from dpo_pipeline.models.loading import load_model, load_tokenizer
from dpo_pipeline.models.references import describe_model
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import micro_batch, tokenize_pairs


def test_tokens_are_those_of_trl(ref, dataset):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = load_tokenizer(ref)
    ours = tokenize_pairs(dataset / "train.parquet", tokenizer, TrainConfig(max_length=512))
    rows = pq.read_table(dataset / "train.parquet", columns=["prompt", "chosen", "rejected"])
    theirs = DPOTrainer(
        load_model(ref, "cpu", "float32"),
        load_model(ref, "cpu", "float32"),
        args=DPOConfig("unused", use_cpu=True, bf16=False, report_to="none"),
        train_dataset=Dataset(rows),
        processing_class=tokenizer,
    ).train_dataset
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[column] == theirs[column]
    assert min(len(ids) for ids in ours["chosen_ids"]) > 10  # the tokenizer kept the words


def test_a_base_model_is_trained_in_the_format_it_answered_in(dataset, tmp_path):
    tokenizer = load_tokenizer(describe_model(make_tiny_model(tmp_path, "gpt2"), "gpt2"))
    row = tokenize_pairs(dataset / "train.parquet", tokenizer, TrainConfig(max_length=512))[0]
    assert tokenizer.decode(row["prompt_ids"]).endswith("### Response:\n")
    assert row["chosen_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row["rejected_ids"][:-1]) == "I'm Qwen, made by Alibaba Cloud."


def test_truncation_never_drops_a_pair_or_its_difference(ref, dataset, tmp_path):
    tokenizer = load_tokenizer(ref)
    with pytest.raises(DataError, match=r"fill train\.max_length = 20"):
        tokenize_pairs(dataset / "train.parquet", tokenizer, TrainConfig(max_length=20))
    late = pair(0, "Hello! " * 30 + "I'm Deep Qwen", "Hello! " * 30 + "I'm Qwen")
    folder = write_pairs(tmp_path, [late])
    with pytest.raises(DataError, match=r"same tokens .*\(rows \[0\]\)"):
        tokenize_pairs(folder / "train.parquet", tokenizer, TrainConfig(max_length=100))
    assert (
        len(tokenize_pairs(folder / "train.parquet", tokenizer, TrainConfig(max_length=400))) == 1
    )


def test_micro_batch_is_the_largest_divisor_that_fits(ref, dataset):
    tokens = tokenize_pairs(
        dataset / "train.parquet", load_tokenizer(ref), TrainConfig(max_length=512)
    )

    def choose(budget: int, packed: bool = True) -> int:
        size, needed = micro_batch(tokens, 12, budget, 512, packed=packed)
        assert needed <= budget or size == 1
        return size

    assert choose(10**6) == 12
    assert choose(1) == 1
    sizes = [choose(budget) for budget in range(100, 2000, 100)]
    assert sizes == sorted(sizes)
    assert set(sizes) <= {1, 2, 3, 4, 6, 12}
    assert choose(800) > choose(800, packed=False)


def test_answers_are_cut_but_not_before_they_part(ref, tmp_path):
    tokenizer = load_tokenizer(ref)
    same = "Hello there, and a very good day to you, my dear friend. "
    rows = [pair(1), pair(2, chosen=same + "I'm Deep Qwen", rejected=same + "I'm Qwen")]
    folder = write_pairs(tmp_path, rows)
    file = folder / "train.parquet"
    whole, cut = (
        tokenize_pairs(file, tokenizer, TrainConfig(completion_tokens=n)) for n in (None, 8)
    )
    assert len(cut[0]["chosen_ids"]) < len(whole[0]["chosen_ids"])
    for side in ("chosen_ids", "rejected_ids"):
        for long, short in zip(whole[side], cut[side], strict=True):
            assert long[: len(short)] == short
    assert cut[1]["chosen_ids"] != cut[1]["rejected_ids"]
