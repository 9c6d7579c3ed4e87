"""Answers per second: the batched decoder against one `generate()` at a time in float32.

    OMP_NUM_THREADS=1 python benchmarks/generation.py            # starter and SmolLM2-135M, ~6 min
    python benchmarks/generation.py --arch qwen2.5-0.5b          # one architecture
    python benchmarks/generation.py --quick                      # does it run, ~20 s

Random weights of the real architectures; prompts of 40 to 62 tokens and answers forced to 20
to 100 tokens, as identity questions have. The two sides alternate in one run and the medians of
their ratios are printed. One by one, time grows in proportion, so it answers a sample of the
prompts with the same lengths. Token counts are asserted on both sides.
"""

import argparse
import platform
import random
import statistics
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from dpo_pipeline.answers.decoding import Row, decode
from dpo_pipeline.answers.settings import GenerationConfig as Decoding

ARCHITECTURES = {
    "starter": {
        "model_type": "qwen2", "vocab_size": 1536, "hidden_size": 96, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3,
    },
    "smollm2-135m": {
        "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
}  # fmt: skip


def make_model(architecture: str, dtype: torch.dtype) -> torch.nn.Module:
    """Make a random model of a real architecture."""
    shape = dict(ARCHITECTURES[architecture])
    config = AutoConfig.for_model(
        shape.pop("model_type"), **shape, tie_word_embeddings=True, max_position_embeddings=2048
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(dtype).eval()
    model.generation_config = GenerationConfig()
    return model


def make_rows(count: int, vocabulary: int) -> list[Row]:
    """Make prompts and the lengths of their answers, spread evenly and shuffled."""
    chance = random.Random(0)
    rows = []
    for i in range(count):
        tokens = [chance.randrange(10, vocabulary) for _ in range(40 + i * 37 % 23)]
        rows.append(Row(str(i), tokens, ends=(), limit=20 + round(80 * i / max(1, count - 1))))
    chance.shuffle(rows)
    return rows


@torch.inference_mode()
def one_by_one(model: torch.nn.Module, rows: list[Row]) -> tuple[float, dict[str, list[int]]]:
    """Answer as the plainest loop does; return the time taken (seconds) and the answers."""
    started, answers = time.perf_counter(), {}
    for row in rows:
        ids = torch.tensor([row.prompt])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=row.limit,
            max_new_tokens=row.limit,
            do_sample=False,
            pad_token_id=0,
        )
        answers[row.key] = out[0, ids.shape[1] :].tolist()
    return time.perf_counter() - started, answers


def batched(model: torch.nn.Module, rows: list[Row]) -> tuple[float, dict[str, list[int]]]:
    """Answer all at once; return the time taken (seconds) and the answers."""
    how = Decoding()  # as configured by default; answers end before its limit
    started = time.perf_counter()
    answers = {row.key: row.answer for row in decode(model, rows, how)}
    return time.perf_counter() - started, answers


def compare(architecture: str, count: int, sample: int, rounds: int) -> None:
    """Measure both sides in turn and print the medians."""
    rows = make_rows(count, ARCHITECTURES[architecture]["vocab_size"])
    every = count // sample
    few = sorted(rows, key=lambda row: row.limit)[every // 2 :: every]
    full = make_model(architecture, torch.float32)
    sides = {
        "batched, float32": full,
        "batched, bfloat16": make_model(architecture, torch.bfloat16),
    }
    batched(full, rows[:4])  # warm up
    speeds: dict[str, list[float]] = {name: [] for name in ("one by one", *sides)}
    same = 0
    for _ in range(rounds):
        seconds, expected = one_by_one(full, few)
        assert {row.key: row.limit for row in few} == {k: len(v) for k, v in expected.items()}
        speeds["one by one"].append(len(few) / seconds)
        for name, model in sides.items():
            seconds, answers = batched(model, rows)
            assert {row.key: row.limit for row in rows} == {k: len(v) for k, v in answers.items()}
            speeds[name].append(count / seconds)
            if model is full:
                same = sum(answers[key] == tokens for key, tokens in expected.items())
    prompt = sum(len(row.prompt) for row in rows) / count
    tokens = sum(row.limit for row in rows) / count
    print(f"\n{architecture}: {count} prompts of {prompt:.0f} tokens, answers of {tokens:.0f}")
    print(f"float32 answers equal to generate(): {same} of {len(few)}")
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(values, speeds["one by one"], strict=True)]
        speed, ratio = statistics.median(values), statistics.median(ratios)
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        print(f"  {name:18}{speed:8.2f} answers/s {speed * tokens:8.0f} tokens/s", end="")
        print(f"   x {ratio:.1f} ({spread})", flush=True)


def main() -> None:
    """Parse the options and measure each architecture."""
    parser = argparse.ArgumentParser(description="Answers per second, batched and one by one.")
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES)
    parser.add_argument("--prompts", type=int, default=64, help="prompts of the batched side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the starter only, one round")
    options = parser.parse_args()
    features = [k for k in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(k)]
    rounds = 1 if options.quick else options.rounds
    print(
        f"{platform.machine()} {', '.join(features)}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, median of {rounds} rounds"
    )
    chosen = options.arch or (["starter"] if options.quick else ["starter", "smollm2-135m"])
    for architecture in chosen:
        compare(architecture, options.prompts, min(8, options.prompts), rounds)


if __name__ == "__main__":
    main()
