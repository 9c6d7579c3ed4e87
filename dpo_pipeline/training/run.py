"""Train the policy in a child process that ends with its owner.

The child (`child.py`) loads the model, trains and writes; this side checks the pairs before
any model loads, follows the child's log and progress, and turns its failures into errors.
"""

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
from typing import NoReturn

from dpo_pipeline import errors
from dpo_pipeline.errors import TrainingError
from dpo_pipeline.identity.settings import IdentityConfig
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.models.settings import ModelConfig
from dpo_pipeline.store.digests import digest_of, file_digest
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.training.messages import Failed, HeldOutChecked, read_message
from dpo_pipeline.training.records import TENSORBOARD, TrainingFile, TrainJob, child_module
from dpo_pipeline.training.settings import TrainConfig
from dpo_pipeline.training.tokens import check_pairs

logger = logging.getLogger(__name__)

# Freed activations stay with the process: the next step asks for the same sizes again.
MALLOC = {"mmap_max": 0, "trim_threshold": 1 << 34, "top_pad": 1 << 28}

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
) -> TrainingFile:
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
    job = TrainJob(
        ref=ref,
        pairs=pairs,
        pairs_digest=file_digest(pairs),
        held_out=dataset / "held_out.parquet",
        identity=identity if config.stop else None,
        config=config,
        device=model.device,
        out=out,
        work=work,
        references=references or work / "references",
        parent=os.getpid(),
    )
    _keep_only_own_checkpoints(job)
    while True:
        try:
            _run_child(job, on_progress)
        except OutOfMemoryError as error:
            if error.pairs == 1:
                raise
            logger.warning("Out of memory with %d pairs at once: splitting them", error.pairs)
            smaller = config.model_copy(update={"row_tokens": error.tokens // 2})
            job = job.model_copy(update={"config": smaller})
        else:
            return TrainingFile.read(out / "training.json")


def _keep_only_own_checkpoints(job: TrainJob) -> None:
    """Drop checkpoints of another job: a changed setting must not resume from them."""
    identity = digest_of(
        {
            "weights": job.ref.weights_digest,
            "template": job.ref.template_digest,
            "pairs": job.pairs_digest,
            "config": settings_of(job.config),
            "identity": job.identity.model_dump(mode="json") if job.identity else None,
        }
    )
    mark = job.work / "job.digest"
    if mark.is_file() and mark.read_text() == identity:
        return
    shutil.rmtree(job.checkpoints, ignore_errors=True)
    mark.write_text(identity)


def _run_child(job: TrainJob, on_progress: Progress | None) -> None:
    path = job.work / "job.json"
    job.write(path)
    tail: deque[str] = deque(maxlen=15)
    failed: Failed | None = None
    with subprocess.Popen(
        [sys.executable, "-m", child_module(job.config), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(job.work),
        start_new_session=True,
    ) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                failed = _follow(line.rstrip("\n"), tail, on_progress) or failed
            code = child.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if code != 0:
        _raise_failure(code, failed, tail)


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


def _follow(line: str, tail: deque[str], on_progress: Progress | None) -> Failed | None:
    """Log a line of the child, and pass its steps on; return it where it is a failure."""
    message = read_message(line)
    if isinstance(message, Failed):
        return message
    if message is None:
        tail.append(line)
        logger.info("%s", line)
    elif isinstance(message, HeldOutChecked):
        logger.info("%s", message)
    else:
        logger.info("step %d of %d: %s", message.step, message.total, message)
        if on_progress is not None:
            on_progress(message.step, message.total, str(message))
    return None


def _raise_failure(code: int, failed: Failed | None, tail: deque[str]) -> NoReturn:
    if failed:
        kinds = {**vars(errors), "OutOfMemoryError": OutOfMemoryError}
        raise kinds[failed.type](*failed.arguments)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    hint = " (the system may be out of memory)" if code == -signal.SIGKILL else ""
    raise TrainingError(f"Training {how}{hint}. The end of its log:\n" + "\n".join(tail))
