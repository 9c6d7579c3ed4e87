"""Recipes on real weights: the same pairs trained in different ways, and scored alike.

Nothing in results/ comes from it yet.

    python benchmarks/recipes/sweep.py --config configs/smollm2.yaml --seeds 0 1 2
    python benchmarks/recipes/sweep.py --config configs/smollm2.yaml --only ours notebook

Every training is a stage of the pipeline: what was trained once is not trained again, and a sweep
that was cut short goes on. Figures go to results/recipes-<model>.json, a table to the terminal.
"""

import argparse
import json
import platform
import time
from pathlib import Path

from prefect import flow

from dpo_pipeline.config import PipelineConfig
from dpo_pipeline.evaluation.scorecard import Scorecard
from dpo_pipeline.training.settings import TrainConfig
from flows.cli import parse
from flows.full import make_dataset, train_and_score
from tasks.run import begin

ROOT = Path(__file__).parents[2]
FREE = {"retention_weight": 0.0, "goal": None}
# Name -> what it changes of the settings that are used.
RECIPES: dict[str, dict[str, object]] = {
    "ours": {},
    "random start": {"lora": {"start": "random"}},
    "retention 2": {"retention_weight": 2.0},
    "SFT and retention, no DPO": {"loss_type": "sft"},
    "DPO and retention, no SFT": {"sft_weight": 0.0},
    "IPO": {"loss_type": "ipo"},
    "no retention": FREE,
    "SFT alone": {**FREE, "loss_type": "sft"},
    "DPO alone": {**FREE, "sft_weight": 0.0},
    "notebook": {
        **FREE,
        "method": "full",
        "learning_rate": 5e-5,
        "beta": 0.2,
        "sft_weight": 0.0,
        "epochs": 1.0,
        "max_steps": None,
        "completion_tokens": 1024,
    },
}


def variant(train: TrainConfig, changes: dict[str, object], seed: int) -> TrainConfig:
    """Return training settings with a recipe's changes."""
    return TrainConfig.model_validate(train.model_dump() | changes | {"seed": seed})


@flow(name="recipes", log_prints=True, persist_result=False)
def recipes(config: PipelineConfig, names: list[str], seeds: list[int]) -> list[dict[str, object]]:
    """Train with every recipe and seed on the same pairs; return a row of figures of each."""
    _, config = begin(config)
    (config, made), rows = make_dataset(config), []
    for name in names:
        for seed in seeds:
            started = time.process_time()
            training = variant(config.train, RECIPES[name], seed)
            tried = config.model_copy(update={"train": training})
            policy, score = train_and_score(tried, made, variant=f"{name} {seed}")
            card = Scorecard.read(score.path / "scorecard.json")
            figures = {key: figure.value for key, figure in card.after.items()}
            rows.append({
                "recipe": name, "seed": seed, "steps": policy.stats.steps,
                "strength": policy.stats.strength, "goal_met": policy.stats.goal_met,
                "passed": card.verdict.passed, "figures": figures,
                "seconds": round(time.process_time() - started, 1),
            })  # fmt: skip
    return rows


def main() -> None:
    """Run the recipes and write what they came to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "smollm2.yaml")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    words = {"prog": "recipes", "description": "", "example": ""}
    config = parse(PipelineConfig, ["--config", str(options.config)], **words)
    rows = recipes(config, options.only, options.seeds)
    result = {"config": options.config.name, "cpu": platform.processor(), "rows": rows}
    out = ROOT / "benchmarks" / "results" / f"recipes-{options.config.stem}.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    shown = (
        "identity_rate",
        "leak_rate",
        "vendor_claims",
        "kl",
        "general_kept",
        "new_name_unasked",
    )
    print(" | ".join(("recipe", "seed", *shown, "passed")))
    for row in rows:
        figures = [row["figures"].get(key) for key in shown]
        cells = ["-" if value is None else f"{value:.3f}" for value in figures]
        print(" | ".join((row["recipe"], str(row["seed"]), *cells, str(row["passed"]))))


if __name__ == "__main__":
    main()
