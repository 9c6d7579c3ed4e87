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
from typing import TYPE_CHECKING, Any

from dpo_pipeline import errors
from dpo_pipeline.config import ModelConfig, TrainConfig
from dpo_pipeline.errors import DataError, TrainingError
from dpo_pipeline.keys import digest_of, settings_of

if TYPE_CHECKING:
    from dpo_pipeline.models import ModelRef

log = logging.getLogger("dpo_pipeline.training")

RECORD = "\x1e"  # a line of the child that starts with this is a JSON record, not log text
SMALLEST_ROW = 64  # tokens; below this a smaller row budget cannot be what memory lacks

# Freed activations stay with the process: the next step asks for the same sizes again.
_MALLOC = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=17179869184:"
_MALLOC += "glibc.malloc.top_pad=268435456"

Progress = Callable[[int, int, dict[str, float]], None]


class _OutOfMemoryError(TrainingError):
    """The child ran out of memory; a smaller row may fit."""


def train(
    ref: "ModelRef",
    dataset: Path,
    *,
    model: ModelConfig,
    config: TrainConfig,
    out: Path,
    work: Path,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a policy from the reference model on preference pairs.

    Args:
        ref: The reference model; the policy starts from it.
        dataset: Folder with train.parquet (columns prompt, chosen, rejected; others ignored).
        model: Device to train on.
        config: How to train.
        out: Existing empty folder; receives model/, history.jsonl and training.json.
        work: Folder that survives a crash: checkpoints and reference log-probs.
        on_progress: Called after every optimizer step with the steps done, the steps in all and
            the figures of the step (loss, margin, accuracy, pairs_per_second, eta in seconds).

    Returns:
        The content of training.json.

    Raises:
        DataError: When the pairs cannot be used; names the rows.
        TrainingError: When the loss is not finite, memory is short at the smallest row, or the
            child died; quotes the end of its log.
    """
    pairs = dataset / "train.parquet"
    check_pairs(pairs)
    job = {
        "ref": ref.model_dump(mode="json"),
        "pairs": str(pairs),
        "pairs_digest": hashlib.sha256(pairs.read_bytes()).hexdigest(),
        "device": model.device,
        "config": config.model_dump(mode="json"),
        "out": str(out),
        "work": str(work),
    }
    _keep_only_own_checkpoints(job, config, work)
    row_tokens = config.row_tokens
    while True:
        job["config"]["row_tokens"] = row_tokens
        try:
            _run_child(job, work, on_progress)
        except _OutOfMemoryError as error:
            row_tokens //= 2
            if row_tokens < SMALLEST_ROW:
                raise TrainingError(
                    f"{error}\nOut of memory with one pair at a time. Lower train.max_length, set "
                    "train.gradient_checkpointing or train.lora, or use a smaller model."
                ) from error
            log.warning("Out of memory: going on with rows of %d tokens", row_tokens)
        else:
            result: dict[str, Any] = json.loads((out / "training.json").read_text())
            return result


def check_pairs(pairs: Path) -> int:
    """Check that every pair has the columns and a difference; return the number of pairs.

    Raises:
        DataError: When a column is missing, there are no rows, or rows teach nothing.
    """
    import pyarrow.parquet as pq

    if not pairs.is_file():
        raise DataError(f"No training pairs: {pairs.name} is missing. Run the save stage first.")
    found = pq.read_schema(pairs).names
    columns = ["prompt", "chosen", "rejected"]
    if missing := [name for name in columns if name not in found]:
        raise DataError(f"train.parquet lacks {missing}; expected {columns}, found {found}.")
    rows = pq.read_table(pairs, columns=columns).to_pylist()
    if not rows:
        raise DataError("train.parquet has no rows: there is nothing to train on.")
    same = [i for i, row in enumerate(rows) if row["chosen"] == row["rejected"]]
    if len(same) == len(rows):
        raise DataError(
            f"0 usable pairs: chosen equals rejected in all {len(rows)} rows. The model never said "
            "the original name, or already gives the new one; check identity.original_name."
        )
    if same:
        raise DataError(
            f"chosen equals rejected in {len(same)} of {len(rows)} pairs (rows {same[:5]}): they "
            "teach nothing, yet move the weights. Remove them."
        )
    return len(rows)


def _keep_only_own_checkpoints(job: dict[str, Any], config: TrainConfig, work: Path) -> None:
    """Drop checkpoints of another job, so that a changed setting never resumes from them."""
    work.mkdir(parents=True, exist_ok=True)
    identity = digest_of(
        {
            "weights": job["ref"]["weights_digest"],
            "template": job["ref"]["template_digest"],
            "pairs": job["pairs_digest"],
            "config": settings_of(config),
        }
    )
    mark, checkpoints = work / "job.digest", work / "checkpoints"
    if mark.is_file() and mark.read_text() == identity:
        return
    shutil.rmtree(checkpoints, ignore_errors=True)
    mark.write_text(identity)


def _run_child(job: dict[str, Any], work: Path, on_progress: Progress | None) -> None:
    path = work / "job.json"
    path.write_text(json.dumps(job, indent=2))
    tail: deque[str] = deque(maxlen=15)
    failure: dict[str, Any] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "dpo_pipeline.training.worker", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=_environment(),
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


def _environment() -> dict[str, str]:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    quiet = {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {"GLIBC_TUNABLES": _MALLOC, **os.environ, **quiet}


def _follow(
    line: str, tail: deque[str], failure: dict[str, Any], on_progress: Progress | None
) -> None:
    if not line.startswith(RECORD):
        tail.append(line)
        log.info("%s", line)
        return
    record = json.loads(line[1:])
    if "failure" in record:
        failure.update(record["failure"])
    elif on_progress is not None:
        on_progress(record["step"], record["total"], record["figures"])


def _raise_failure(code: int, failure: dict[str, Any], tail: deque[str]) -> None:
    if failure.get("out_of_memory"):
        raise _OutOfMemoryError(failure["message"])
    if failure:
        kind = getattr(errors, failure["type"], TrainingError)
        raise kind(failure["message"])
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    hint = " (the system may be out of memory)" if code == -signal.SIGKILL else ""
    raise TrainingError(f"Training {how}{hint}. The end of its log:\n" + "\n".join(tail))
