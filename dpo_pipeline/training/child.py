"""The training process: load, train, write. Started by `run.py`, ends with it."""

import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_pipeline.errors import DPOPipelineError
from dpo_pipeline.models.loading import load_tokenizer
from dpo_pipeline.models.references import CONFIG, ModelRef, as_described, template_files
from dpo_pipeline.store.files import explained
from dpo_pipeline.store.processes import die_with_parent
from dpo_pipeline.training.launching import launcher
from dpo_pipeline.training.records import (
    Failed,
    Look,
    TrainingFile,
    TrainJob,
    child_module,
    send,
)
from dpo_pipeline.training.tokens import tokenize_pairs

if TYPE_CHECKING:
    from trl.trainer.dpo_trainer import DPOTrainer

    from dpo_pipeline.training.retention import RetainingDPOTrainer
    from dpo_pipeline.training.tuning import TrainUntilDone

    Watch = Callable[[TrainJob, RetainingDPOTrainer], TrainUntilDone]

# Weights (bytes) below which a second thread costs more in barriers than it gains, above all
# on a busy machine; one thread also makes the result independent of the number of cores.
SMALL_MODEL = 1 << 24
CODE = "auto_map"


def main(path: str, watch: "Watch | None" = None) -> None:
    """Run the job in the JSON file `path`, alone or as one of several processes.

    What looks on and knows when it is done is made by `watch`, of the job and its trainer.
    """
    job = TrainJob.read(Path(path))
    launched = "LOCAL_RANK" in os.environ  # as one of several
    die_with_parent(None if launched else job.parent)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if not launched and (several := launcher(job.config)):
            command = [*several, "-m", child_module(job.config), path]
            logging.info("Starting processes: python %s", shlex.join(command))
            os.execv(sys.executable, [sys.executable, *command])
        with explained(f"what training makes in {job.work}"):
            (_run_as_one_of_several if launched else run)(job, watch)
    except DPOPipelineError as error:
        send(Failed(type=type(error).__name__, arguments=list(error.args)))
        raise


def _run_as_one_of_several(job: TrainJob, watch: "Watch | None") -> None:
    """Run, and where that fails have the launcher say why: it ends its log with the first to."""
    from torch.distributed.elastic.multiprocessing.errors import record

    record(run)(job, watch)


def run(job: TrainJob, watch: "Watch | None" = None) -> None:
    """Train as the job says and write model/, history.jsonl and training.json to its `out`."""
    import torch
    from transformers import PrinterCallback

    from dpo_pipeline.training.adapters import settle_adapters
    from dpo_pipeline.training.progress import Progress, last_good
    from dpo_pipeline.training.trainer import build_trainer, memory_for, plan

    if sum(file.stat().st_size for file in job.ref.path.glob("*.safetensors")) < SMALL_MODEL:
        torch.set_num_threads(1)
    beside = _files_beside(job.ref)
    tokens = tokenize_pairs(job.pairs, load_tokenizer(job.ref), job.config)
    trainer, fallback = build_trainer(job, tokens)
    watcher = watch(job, trainer) if watch else None
    trainer.remove_callback(PrinterCallback)
    for callback in filter(None, (Progress(job.config.batch_size), watcher)):
        trainer.add_callback(callback)
    good = last_good(job.checkpoints)
    with memory_for(plan(type(trainer), tokens, job.config)):
        trainer.train(resume_from_checkpoint=str(good) if good else None)
    model = trainer.whole_policy()
    if trainer.accelerator.is_main_process:
        settle_adapters(model)
        looks = watcher.finish(model, trainer.state.global_step) if watcher else []
        with explained(job.out / "model"):
            _save_model(model, job, beside, looks[-1].strength if looks else 1.0)
        _save_record(trainer, job, len(tokens), looks, fallback)


def _save_record(
    trainer: "DPOTrainer", job: TrainJob, pairs: int, looks: list[Look], fallback: str | None
) -> None:
    """Write history.jsonl, a line a step, training.json, and what TensorBoard logged."""
    from dpo_pipeline.training.progress import write_history

    ref, logged, goal = job.ref, trainer.state.log_history, job.config.goal
    history = write_history(job.out / "history.jsonl", logged)
    if job.tensorboard.is_dir():
        shutil.copytree(job.tensorboard, job.out / job.tensorboard.name)
    TrainingFile(
        # The name of a local model is its path: its folder is enough.
        model=ref.name if ref.revision else Path(ref.name).name,
        revision=ref.revision,
        weights_digest=ref.weights_digest,
        pairs_digest=job.pairs_digest,
        arguments=job.config,
        engine="shared-prefix" if hasattr(trainer, "_shared") else "trl",
        fallback=fallback,
        precision="bf16" if trainer.args.bf16 else "fp32",
        micro_batch=trainer.args.per_device_train_batch_size,
        pairs=pairs,
        steps=trainer.state.global_step,
        planned_steps=trainer.state.max_steps,
        goal_met=looks[-1].meets(goal) if goal and looks else None,
        strength=looks[-1].strength if looks else 1.0,
        looks=[*(Look(**_of(row)) for row in logged if "done" in row), *looks],
        first=history[0],
        last=history[-1],
    ).write(job.out / "training.json")


def _of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in Look.model_fields}


def _files_beside(ref: ModelRef) -> dict[str, bytes]:
    """Read the files of the reference that go with its policy, now that they are as described.

    What names code to run in transformers' place is left out.
    """
    found = {}
    with as_described(ref, "weights"), as_described(ref, "template"):
        for path in (ref.path / CONFIG, *template_files(ref.path)):
            if path.parent == ref.path and path.is_file():
                found[path.name] = path.read_bytes()
                if path.suffix == ".json" and CODE in (values := json.loads(found[path.name])):
                    logging.info("%s: %s left out, which names code", path.name, CODE)
                    del values[CODE]
                    found[path.name] = json.dumps(values, ensure_ascii=False, indent=2).encode()
    return found


def _save_model(model: Any, job: TrainJob, beside: dict[str, bytes], strength: float) -> None:
    """Write the policy in the reference's precision, with the files beside it."""
    from transformers import AutoConfig

    ref, folder = job.ref, job.out / "model"
    adapted = job.config.method == "lora"
    keep_adapter = adapted and not job.config.lora.merge
    if keep_adapter:
        # An adapter names its base; a Hub id means something on other machines too.
        kept = model.peft_config["default"]
        kept.base_model_name_or_path = ref.name if ref.revision else str(ref.path)
        kept.revision = ref.revision
        kept.lora_alpha *= strength
        beside.pop(CONFIG, None)  # else the folder reads as a whole model
    else:
        model = model.merge_and_unload() if adapted else model
        model = model.to(AutoConfig.from_pretrained(ref.path, local_files_only=True).dtype)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    for name, content in beside.items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1])
