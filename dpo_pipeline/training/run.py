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

from dpo_pipeline.errors import TrainingError
from dpo_pipeline.identity.system_message import PatchedTemplate
from dpo_pipeline.models.loading import let_go_model
from dpo_pipeline.models.references import ModelRef
from dpo_pipeline.store.digests import digest_of
from dpo_pipeline.store.files import write_whole
from dpo_pipeline.store.keys import settings_of
from dpo_pipeline.store.remote import mirror, prune, publish
from dpo_pipeline.training.records import (
    Failed,
    Look,
    OutOfMemoryError,
    StepDone,
    Training,
    TrainingFile,
    TrainJob,
    child_module,
    read_message,
)
from dpo_pipeline.training.tokens import check_pairs

logger = logging.getLogger(__name__)

# Freed activations stay with the process: the next step asks for the same sizes again.
MALLOC = {"mmap_max": 0, "trim_threshold": 1 << 34, "top_pad": 1 << 28}

Progress = Callable[[int, int, str], None]
Watch = Callable[[Look], None]


class TrainStats(Training):
    """What training did, the policy, and what was done to its chat template."""

    model: ModelRef
    template: PatchedTemplate | None = None


def train(
    job: TrainJob, on_progress: Progress | None = None, on_look: Watch | None = None
) -> TrainingFile:
    """Train a policy from the reference model on preference pairs.

    The job's `out` receives model/, history.jsonl and training.json, whose content is returned,
    and tensorboard/ where config.report_to names it. After every optimizer step `on_progress` is
    told the steps done, the steps in all, and the figures of the step as text; `on_look` what the
    tuning split says. Either ends the training where it raises.

    Raises:
        DataError: When the pairs cannot be used; names the rows.
        TrainingError: When the loss is not finite, memory is short even for single pairs, or
            the child died; quotes the end of its log.
    """
    check_pairs(job.pairs)
    resolved = job.config.resolve(job.ref.name)
    job = job.model_copy(update={"config": resolved, "parent": os.getpid()})
    job.work.mkdir(parents=True, exist_ok=True)
    _keep_only_own_checkpoints(job)
    let_go_model()  # the child needs its memory
    while True:
        try:
            _run_child(job, on_progress, on_look)
            return TrainingFile.read(job.out / "training.json")
        except OutOfMemoryError as error:
            if error.pairs == 1:
                raise
            logger.warning("Out of memory with %d pairs at once: splitting them", error.pairs)
            smaller = resolved.model_copy(update={"row_tokens": error.tokens // 2})
            job = job.model_copy(update={"config": smaller})


def _keep_only_own_checkpoints(job: TrainJob) -> None:
    """Drop checkpoints of another job: a changed setting must not resume from them.

    Those of this one may come from another machine.
    """
    identity = digest_of({"job": settings_of(job), "pairs": job.pairs_digest})
    mark = job.work / "job.digest"
    mirror(mark)
    if not mark.is_file() or mark.read_text() != identity:
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        prune(job.checkpoints)
        write_whole(mark, identity)
        publish(mark)
    mirror(job.checkpoints)


def _run_child(job: TrainJob, on_progress: Progress | None, on_look: Watch | None) -> None:
    path = job.work / "job.json"
    job.write(path)
    tail: deque[str] = deque(maxlen=15)
    failed: Failed | None = None
    with subprocess.Popen(
        [sys.executable, "-m", child_module(job.config), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=_environment(job.tensorboard),
        start_new_session=True,
    ) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                message = read_message(line)
                if isinstance(message, Failed):
                    failed = message
                elif message is None:
                    tail.append(line.rstrip("\n"))
                    logger.info("%s", tail[-1])
                elif isinstance(message, Look):
                    if on_look is not None:
                        on_look(message)
                else:
                    _log_step(message)
                    if on_progress is not None:
                        on_progress(message.step, message.total, message.note)
            code = child.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    if code != 0:
        raise failed.error() if failed else _death(code, tail)


def _log_step(done: StepDone) -> None:
    """Log a step of every twentieth of the training: thousands of lines nobody reads."""
    if done.step * 20 // done.total > (done.step - 1) * 20 // done.total:
        logger.info("step %d of %d: %s", done.step, done.total, done.note)


def _environment(tensorboard: Path) -> dict[str, str]:
    package = str(Path(__file__).parents[2])
    return {
        "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{k}={v}" for k, v in MALLOC.items()),
        "TENSORBOARD_LOGGING_DIR": str(tensorboard),
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _death(code: int, tail: deque[str]) -> TrainingError:
    log = "\n".join(tail)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    if "(SIGKILL)" in log:  # says what started several
        code, how = -signal.SIGKILL, "lost a process, killed by signal 9"
    hint = " (the system may be out of memory)" if code == -signal.SIGKILL else ""
    return TrainingError(f"Training {how}{hint}. The end of its log:\n{log}")
