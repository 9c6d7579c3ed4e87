"""Training speed: the common recipe, TRL at its best, and shared prefixes, side by side.

    OMP_NUM_THREADS=1 python benchmarks/training.py --write              # about 10 minutes
    OMP_NUM_THREADS=1 python benchmarks/training.py --growth --write     # about 15 minutes

Real architectures with random weights, pairs of realistic lengths, whole optimizer steps with
the reference forward. The settings alternate within a round, so that a slow minute of the
machine hits all of them; what counts is the median of the ratios of a round. --growth takes a
model of the starter's size, and more pairs, longer answers, or more pairs at once.
"""

import argparse
import json
import os
import platform
import random
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig

from dpo_pipeline.training.packing import build_tree
from dpo_pipeline.training.reference import CachedReferenceDPOTrainer
from dpo_pipeline.training.run import MALLOC
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import micro_batch
from dpo_pipeline.training.trainer import PackedDPOTrainer, use_fast_exact_matmul

ARCHITECTURES = {
    "starter": {
        "model_type": "qwen2",
        "vocab_size": 1536,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
}
BATCH = 8  # pairs an optimizer step, in every setting
ROW_TOKENS = TrainConfig().row_tokens


@dataclass(frozen=True)
class Setting:
    """One way to train: which trainer, in which precision, how many pairs at once."""

    meaning: str
    shared: bool
    bf16: bool
    at_once: int
    checkpointing: bool = False


SETTINGS = {
    "recipe": Setting("fp32, checkpointing, 1 x 8", False, False, 1, True),
    "trl": Setting("bf16 autocast, 1 x 8", False, True, 1),
    "shared": Setting("shared prefixes, bf16 autocast, 8 x 1", True, True, 8),
    "shared-fp32": Setting("shared prefixes, exact fp32, 8 x 1", True, False, 8),
}


# What grows: pairs, tokens of the longest answer, pairs that go through the model at once.
GROWTH = {
    "pairs": [(count, 110, 8) for count in (100, 1000, 10_000)],
    "answer tokens": [(64, length, None) for length in (50, 100, 200, 400, 1000)],
    "pairs at once": [(64, 110, rows) for rows in (1, 2, 4, 8)],
}


def make_pairs(count: int, vocabulary: int, longest: int, shortest: int = 30) -> Dataset:
    """Identity pairs as tokens: one system prompt, an answer, one or two tokens put into it."""
    draw = random.Random(0)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(length)]

    system, rows = tokens(25), []
    for _ in range(count):
        answer, at = tokens(draw.randint(shortest, longest)), draw.randint(2, 6)
        rows.append(
            {
                "prompt_ids": system + tokens(draw.randint(15, 35)),
                "chosen_ids": answer[:at] + tokens(draw.randint(1, 2)) + answer[at:],
                "rejected_ids": answer,
            }
        )
    return Dataset.from_list(rows)


def useful_flops(pairs: Dataset, config: transformers.PreTrainedConfig, parameters: int) -> float:
    """Operations a pair cannot do without: matrix products on unshared tokens, 2 + 6 passes."""
    head = config.vocab_size * config.hidden_size
    body = parameters - head
    total = 0.0
    for start in range(0, len(pairs), BATCH):
        rows, scored = [], []
        for pair in pairs.select(range(start, min(start + BATCH, len(pairs)))):
            for side in ("chosen_ids", "rejected_ids"):
                rows.append(pair["prompt_ids"] + pair[side])
                scored.append([False] * len(pair["prompt_ids"]) + [True] * len(pair[side]))
        tree = build_tree(rows, scored, max(map(len, rows)), torch.device("cpu"))
        total += 8 * (body * len(tree.tokens) + head * len(tree.source))
    return total / len(pairs)


def clock(device: str) -> Callable[[], float]:
    """Choose the clock: one thread is timed by the processor, which other work cannot slow."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def peak_flops(device: str, dtype: torch.dtype) -> float:
    """Measure the best speed of a large matrix product (operations a second)."""
    one, other = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    now, best = clock(device), float("inf")
    for _ in range(12):
        start = now()
        one @ other
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, now() - start)
    return 2 * 2048**3 / best


def time_setting(
    setting: Setting, make: Callable[[], torch.nn.Module], pairs: Dataset, device: str
) -> float:
    """Train on the pairs once; return seconds a pair."""
    spent, now = [0.0], clock(device)

    def counted(work: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            start = now()
            result = work(*args, **kwargs)
            if device == "cuda":
                torch.cuda.synchronize()
            spent[0] += now() - start
            return result

        return run

    kind = PackedDPOTrainer if setting.shared else CachedReferenceDPOTrainer

    class Trainer(kind):  # type: ignore[misc, valid-type]
        _compute = counted(kind._compute)  # the reference; the others run it in every step
        train = counted(kind.train)

    backend = torch.backends.mkldnn.matmul
    backend.fp32_precision = "none"
    if setting.shared and device == "cpu":
        use_fast_exact_matmul()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            make(),
            None if setting.shared else make(),
            args=make_arguments(setting, folder, device),
            train_dataset=pairs,
            processing_class=make_tokenizer(),
            folder=Path(folder),
            digest="random weights",
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        # Nothing was dropped or cut: a benchmark on fewer tokens looks fast.
        assert trainer.state.global_step == -(-len(pairs) // BATCH)
        sides = sum(
            2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs
        )
        assert trainer.state.log_history[-2]["num_tokens"] == sides
    return spent[0] / len(pairs)


def make_arguments(setting: Setting, folder: str, device: str) -> DPOConfig:
    """Translate a setting into TRL's arguments; what it does not name is the same in all."""
    return DPOConfig(
        folder,
        use_cpu=device == "cpu",
        bf16=setting.bf16,
        activation_checkpointing=setting.checkpointing,
        per_device_train_batch_size=setting.at_once,
        gradient_accumulation_steps=BATCH // setting.at_once,
        precompute_ref_log_probs=setting.shared,
        num_train_epochs=1,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the smallest tokenizer TRL accepts; the pairs are tokens already."""
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def describe_machine(device: str) -> dict[str, object]:
    """Name the hardware and the versions."""
    if device == "cuda":
        name = torch.cuda.get_device_name(0)
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(": ")[1] for x in lines if x.startswith("model name")), "unknown")
    return {
        "device": name,
        "bfloat16": [
            k for k, v in torch.cpu.get_capabilities().items() if v is True and "bf16" in k
        ],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", choices=ARCHITECTURES, default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--longest", type=int, default=110, help="longest answer (tokens)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--growth", action="store_true", help="what grows with what")
    parser.add_argument("--write", action="store_true", help="keep under benchmarks/results")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.growth:
        result = {"machine": describe_machine(device), "growth": measure_growth(device)}
        if options.write:
            keep("growth", result)
        return
    config = AutoConfig.for_model(**ARCHITECTURES[options.arch])
    pairs = make_pairs(options.pairs, config.vocab_size, options.longest)

    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    parameters = sum(p.numel() for p in make().parameters())
    times: dict[str, list[float]] = {name: [] for name in options.settings}
    peaks: dict[str, list[float]] = {"bf16": [], "fp32": []}
    for number in range(options.rounds):
        use_fast_exact_matmul()
        peaks["bf16"].append(peak_flops(device, torch.bfloat16))
        peaks["fp32"].append(peak_flops(device, torch.float32))
        for name, seconds in times.items():
            seconds.append(time_setting(SETTINGS[name], make, pairs, device))
            print(f"round {number}: {name}: {seconds[-1]:.2f} s a pair", flush=True)
    result = {
        "machine": describe_machine(device),
        "clock": clock(device).__name__,
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
        "architecture": options.arch,
        "parameters": parameters,
        "pairs": options.pairs,
        "rounds": options.rounds,
        "peak_flops": {name: statistics.median(found) for name, found in peaks.items()},
        "useful_flops_a_pair": useful_flops(pairs, config, parameters),
        "settings": {name: summarize(name, times) for name in times},
    }
    print_table(result)
    if options.write:
        keep(options.arch, result)


def keep(name: str, result: dict[str, object]) -> None:
    """Write the figures beside this file, under the machine's name."""
    machine = re.sub(r"\W+", "-", str(result["machine"]["device"]).lower()).strip("-")
    file = Path(__file__).parent / "results" / f"training-{name}-{machine}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")


def measure_growth(device: str) -> list[dict[str, object]]:
    """Measure seconds a pair of TRL's best and of shared prefixes in fp32, as one thing grows."""
    config, rows = AutoConfig.for_model(**ARCHITECTURES["starter"]), []

    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    # A model this small is faster without autocast, TRL's as well.
    plain, shared = replace(SETTINGS["trl"], bf16=False), SETTINGS["shared-fp32"]
    print("| grows | to | TRL, s a pair | shared prefixes, s a pair | times as fast |")
    print("|---|---|---|---|---|")
    for what, cases in GROWTH.items():
        for count, length, at_once in cases:
            shortest = length if what == "answer tokens" else 30
            pairs = make_pairs(count, config.vocab_size, length, shortest)
            at_once = at_once or micro_batch(pairs, BATCH, ROW_TOKENS, 2048, packed=True).pairs
            sides = plain, replace(shared, at_once=at_once)
            trl, ours = (time_setting(side, make, pairs, device) for side in sides)
            to = {"pairs": count, "answer tokens": length, "pairs at once": at_once}[what]
            rows.append({"grows": what, "to": to, "trl": trl, "shared": ours})
            print(f"| {what} | {to} | {trl:.4f} | {ours:.4f} | {trl / ours:.1f} |", flush=True)
    return rows


def summarize(name: str, times: dict[str, list[float]]) -> dict[str, object]:
    """Take medians of one setting, and of its ratios to every other within a round."""
    ratios = {
        other: statistics.median(b / a for a, b in zip(times[name], seconds, strict=True))
        for other, seconds in times.items()
    }
    return {
        "meaning": SETTINGS[name].meaning,
        "seconds_a_pair": statistics.median(times[name]),
        "times_as_fast_as": ratios,
    }


def print_table(result: dict[str, object]) -> None:
    """Print the figures as a Markdown table."""
    first, *_ = result["settings"]
    print(f"\n| setting | s a pair | x {first} | TFLOP/s | of bf16 peak | of fp32 peak |")
    print("|---|---|---|---|---|---|")
    for setting in result["settings"].values():
        speed = result["useful_flops_a_pair"] / setting["seconds_a_pair"]
        shares = (f"{speed / peak:.0%}" for peak in result["peak_flops"].values())
        print(
            f"| {setting['meaning']} | {setting['seconds_a_pair']:.2f} "
            f"| {setting['times_as_fast_as'][first]:.2f} | {speed / 1e12:.2f} "
            f"| {' | '.join(shares)} |"
        )


if __name__ == "__main__":
    # As the training process runs: set before glibc starts, so start again with it.
    if "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{k}={v}" for k, v in MALLOC.items())
        os.execv(os.sys.executable, [os.sys.executable, *os.sys.argv])
    main()
