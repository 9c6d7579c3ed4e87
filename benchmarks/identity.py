"""Time to identity: seconds of training until held-out prompts get the new name.

    make demo                                               # makes the starter's pairs
    OMP_NUM_THREADS=1 python benchmarks/identity.py         # about 5 minutes

The common recipe (plain DPO, learning rate 5e-5, fp32, one pair at a time, checkpointing), the
same with the pipeline's learning rate and SFT term, and the pipeline's defaults train the same
starter on the same pairs until 95% of held-out answers give the new name, for four epochs at
most. Loading the model and asking it do not count; the reference's log-probabilities do. The
sides alternate; what counts is the median of the ratios of a round.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from training import describe_machine
from transformers import PrinterCallback
from transformers.utils import logging as transformers_logging

from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import ModelRef, describe_model
from dpo_pipeline.starter.build import STARTER
from dpo_pipeline.training.records import TrainJob
from dpo_pipeline.training.settings import GoalConfig, TrainConfig
from dpo_pipeline.training.tokens import tokenize_pairs
from dpo_pipeline.training.trainer import build_trainer
from dpo_pipeline.training.tuning import TrainUntilDone

DEFAULTS = PipelineConfig().resolve().train
RECIPE = TrainConfig(
    engine="trl",
    beta=0.2,
    learning_rate=5e-5,
    sft_weight=0.0,
    epochs=4,
    method="full",
    retention_weight=0.0,
    row_tokens=1,
    gradient_checkpointing=True,
    precision="fp32",
)
OURS = {"learning_rate": DEFAULTS.learning_rate, "sft_weight": DEFAULTS.sft_weight}
SIDES = {
    "defaults": DEFAULTS,
    "recipe": RECIPE,
    "recipe with our settings": RECIPE.model_copy(update=OURS),
}


def time_side(config: TrainConfig, ref: ModelRef, dataset: Path, goal: GoalConfig) -> dict:
    """Train until the tuning split says so; return seconds, steps, and what was seen last."""
    asked = 0.0

    class TimedLooks(TrainUntilDone):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            nonlocal asked
            started = time.process_time()
            super().on_step_end(*args, **kwargs)
            asked += time.process_time() - started

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        job = TrainJob(
            ref=ref,
            dataset=dataset,
            identity=IdentityConfig(original_name="Qwen", new_name="Deep Qwen"),
            config=config.model_copy(update={"goal": goal}),
            device="cpu",
            out=work,
            work=work,
            references=work / "references",
        )
        tokens = tokenize_pairs(job.pairs, load_tokenizer(ref), job.config)
        watcher = TimedLooks(job)
        started = time.process_time()
        trainer, _ = build_trainer(job, tokens)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watcher)
        trainer.train()
        seconds = time.process_time() - started - asked
    found = next(row for row in reversed(trainer.state.log_history) if "done" in row)
    return {"seconds": seconds, **found}


def main() -> None:
    """Measure both sides in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--home", type=Path, default=Path(".dpo-pipeline"), help="of a run")
    parser.add_argument("--rate", type=float, default=0.95, help="identity rate to reach")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    runs = sorted(options.home.glob("runs/*/summary.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        parser.error(f"there is no run under {options.home}: `make demo` makes one")
    summary = json.loads(runs[-1].read_text())
    ref = describe_model(STARTER, "starter")
    dataset = Path(summary["stages"]["save"]["path"])
    goal = GoalConfig(identity_rate=options.rate, max_kl=1e9, max_unasked=1.0, every=5)
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for number in range(options.rounds):
        for name, config in SIDES.items():
            found = time_side(config, ref, dataset, goal)
            times[name].append(found["seconds"])
            print(
                f"round {number}: {name:24} {found['seconds']:6.1f} s, {found['step']:4} steps, "
                f"identity rate {found['identity_rate']:.2f}, edit exactness "
                f"{found['edit_exactness']:.2f}, {found['outcome'] or 'target not reached'}",
                flush=True,
            )
    print(f"{describe_machine('cpu')['device']}, one thread, medians of {options.rounds} rounds")
    for name, seconds in times.items():
        pairs = zip(seconds, times["defaults"], strict=True)
        ratio = statistics.median(side / ours for side, ours in pairs)
        print(f"{name:24} {statistics.median(seconds):6.1f} s, {ratio:.1f} times the defaults")


if __name__ == "__main__":
    main()
