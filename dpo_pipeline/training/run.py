"""Train the policy in a child process that ends with its owner.

The child (`worker.py`) loads the model, trains and writes; this side checks the pairs before
any model loads, follows the child's log and progress, and turns its failures into errors.
"""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpo_pipeline import errors
from dpo_pipeline.errors import TrainingError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import check_pairs

logger = logging.getLogger(__name__)

RECORD = "\x1e"  # a line of the child that starts with this is a JSON record, not log text

# Freed activations stay with the process: the next step asks for the same sizes again.
MALLOC = {"mmap_max": 0, "trim_threshold": 1 << 34, "top_pad": 1 << 28}

TENSORBOARD = "tensorboard"  # folder of its logs, in work while training, then in out

Progress = Callable[[int, int, str], None]


class OutOfMemoryError(TrainingError):
    """Memory ran out in the child.

    Attributes:
        pairs: How many went through the model at once.
        tokens: How many these were, at most.
    """

    def __init__(self, pairs: int, tokens: int) -> None:
        super().__init__(pairs, tokens)
        self.pairs, self.tokens = pairs, tokens

    def __str__(self) -> str:
        return (
            f"Out of memory with {self.pairs} pairs of up to {self.tokens} tokens at once. Lower "
            "train.max_length, set train.gradient_checkpointing or train.lora, or use a smaller "
            "model. Checkpoints are kept."
        )


def train(
    ref: ModelRef,
    dataset: Path,
    *,
    model: ModelConfig,
    config: TrainConfig,
    identity: IdentityConfig | None = None,
    out: Path,
    work: Path,
    references: Path | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a policy from the reference model on preference pairs.

    Args:
        ref: The reference model; the policy starts from it.
        dataset: Folder with train.parquet (columns prompt, chosen, rejected; others ignored),
            and held_out.parquet where config.stop asks for it.
        model: Device to train on.
        config: How to train.
        identity: What config.stop looks for; null: it is null too.
        out: Existing empty folder; receives model/, history.jsonl and training.json, and
            tensorboard/ where config.report_to names it.
        work: Folder that survives a crash, for checkpoints.
        references: Folder of reference log-probs, to be kept for other settings; None: in work.
        on_progress: Called after every optimizer step with the steps done, the steps in all,
            and the figures of the step as text.

    Returns:
        The content of training.json.

    Raises:
        DataError: When the pairs cannot be used; names the rows.
        TrainingError: When the loss is not finite, memory is short even for single pairs, or
            the child died; quotes the end of its log.
    """
    pairs, config = dataset / "train.parquet", config.resolve(ref.name)
    check_pairs(pairs)
    work.mkdir(parents=True, exist_ok=True)
    job = {
        "ref": ref.model_dump(mode="json"),
        "pairs": str(pairs),
        "pairs_digest": hashlib.sha256(pairs.read_bytes()).hexdigest(),
        "device": model.device,
        "parent": os.getpid(),
        "config": config.model_dump(mode="json"),
        "identity": identity.model_dump(mode="json") if identity and config.stop else None,
        "held_out": str(dataset / "held_out.parquet"),
        "out": str(out),
        "work": str(work),
        "references": str(references or work / "references"),
    }
    _keep_only_own_checkpoints(job, config, work)
    while True:
        try:
            _run_child(job, work / "job.json", on_progress)
        except OutOfMemoryError as error:
            if error.pairs == 1:
                raise
            logger.warning("Out of memory with %d pairs at once: splitting them", error.pairs)
            job["config"] = config.model_dump(mode="json") | {"row_tokens": error.tokens // 2}
        else:
            result: dict[str, Any] = json.loads((out / "training.json").read_text())
            return result


def _keep_only_own_checkpoints(job: dict[str, Any], config: TrainConfig, work: Path) -> None:
    """Drop checkpoints of another job: a changed setting must not resume from them."""
    identity = digest_of(
        {
            "weights": job["ref"]["weights_digest"],
            "template": job["ref"]["template_digest"],
            "pairs": job["pairs_digest"],
            "config": settings_of(config),
            "identity": job["identity"],
        }
    )
    mark = work / "job.digest"
    if mark.is_file() and mark.read_text() == identity:
        return
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    mark.write_text(identity)


def _run_child(job: dict[str, Any], path: Path, on_progress: Progress | None) -> None:
    path.write_text(json.dumps(job, indent=2))
    tail: deque[str] = deque(maxlen=15)
    failure: dict[str, Any] = {}
    module = "dpo_pipeline.training." + ("early_stopping" if job["config"]["stop"] else "child")
    with subprocess.Popen(
        [sys.executable, "-m", module, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(path.parent),
        start_new_session=True,
    ) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                _follow(line.rstrip("\n"), tail, failure, on_progress)
            code = child.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if code != 0:
        _raise_failure(code, failure, tail)


def _environment(work: Path) -> dict[str, str]:
    package = str(Path(__file__).parents[2])
    return {
        "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{k}={v}" for k, v in MALLOC.items()),
        "TENSORBOARD_LOGGING_DIR": str(work / TENSORBOARD),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _follow(
    line: str, tail: deque[str], failure: dict[str, Any], on_progress: Progress | None
) -> None:
    if not line.startswith(RECORD):
        tail.append(line)
        logger.info("%s", line)
        return
    record = json.loads(line[1:])
    if "failure" in record:
        failure.update(record["failure"])
        return
    if "probe" in record:
        logger.info("%s", _describe_probe(record))
        return
    note = (
        f"loss {record['loss']:.4f}, margin {record['margin']:.3f}, accuracy "
        f"{record['accuracy']:.2f}, {record['speed']:.1f} pairs/s, {record['left']:.0f} s left"
    )
    logger.info("step %d of %d: %s", record["step"], record["total"], note)
    if on_progress is not None:
        on_progress(record["step"], record["total"], note)


def _describe_probe(record: dict[str, Any]) -> str:
    line = (
        f"held-out prompts after step {record['probe']}: identity rate "
        f"{record['identity_rate']:.0%}, edit exactness {record['edit_exactness']:.0%}, KL "
        f"{record['kl']:.3f} nats per token"
    )
    return f"{line}; stopped: {record['outcome']}" if record["outcome"] else line


def _raise_failure(code: int, failure: dict[str, Any], tail: deque[str]) -> None:
    if failure:
        kinds = {**vars(errors), "OutOfMemoryError": OutOfMemoryError}
        raise kinds[failure["type"]](*failure["arguments"])
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    hint = " (the system may be out of memory)" if code == -signal.SIGKILL else ""
    raise TrainingError(f"Training {how}{hint}. The end of its log:\n" + "\n".join(tail))
