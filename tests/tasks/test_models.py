"""Models come into the store once; from then on a run loads nothing heavy."""

import json
from pathlib import Path

from tiny import make_tiny_model
from tiny_gguf import write_gguf
from workplace import Workplace

from dpo_pipeline.store.digests import file_digest

PREPARE = """
import json, sys
from tasks.runtime import prepare_environment
prepare_environment(script=True)
from prefect import flow
from dpo_pipeline.config import PipelineConfig
from tasks.run import begin
from tasks.stage import model_of
from tasks.models import prepare_model

@flow(persist_result=False)
def prepare(config: PipelineConfig) -> dict:
    run, config = begin(config)
    model = prepare_model(config.model)
    heavy = [name for name in ("torch", "transformers", "gguf") if name in sys.modules]
    status = run.stages["model"].status
    return {"status": status, "heavy": heavy, "model": model_of(model).model_dump(mode="json")}

print(json.dumps(prepare(PipelineConfig(model={"name": sys.argv[1]}))))
"""


def prepare(workplace: Workplace, file: Path) -> dict:
    run = workplace.python("-c", PREPARE, str(file))
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_a_gguf_file_is_dequantised_once(workplace, tmp_path):
    folder = make_tiny_model(tmp_path / "llama", "llama")
    file = write_gguf(folder, tmp_path / "tiny.gguf")
    built, cached = prepare(workplace, file), prepare(workplace, file)
    assert (built["status"], cached["status"], cached["heavy"]) == ("built", "cached", [])
    assert built["model"] == cached["model"]
    assert built["model"]["gguf"] == {"source": "tiny.gguf", "digest": file_digest(file)}
    write_gguf(folder, file, head=None)
    again = prepare(workplace, file)
    assert again["status"] == "built"
    assert again["model"]["gguf"]["digest"] == file_digest(file)
