"""Fuzz one target for a while, guided by coverage (Linux with atheris): `make fuzz`.

    python tests/fuzz/guided.py TARGET SECONDS FOLDER

FOLDER keeps the inputs that reached new code, and the one that broke the target, if one did; put
it among the FOUND of tests/fuzz/test_targets.py.
"""

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["dpo_pipeline"]):
    from fuzz_targets import TARGETS

SEEDS = {
    "formats": [
        b"\0" + b'[{"prompt": "a"}]', b"\1" + b'{"prompt": "a"}\n',
        b"\3" + b"prompt,split\na,train\n", b"\5PAR1", b"\6ARROW1",
    ],
    "rewriting": ["I'm Qwen2.5 by Alibaba Cloud; 通义千问 `Qwen`".encode()],
    "templates": [b"{% for m in messages %}{{ m['role'] + m.content|trim }}{% endfor %}"],
    "manifest": [b'{"sha256": "", "body": {"format": 2, "files": {}}}'],
}  # fmt: skip

if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    name, seconds, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]) / sys.argv[1]
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        TARGETS[name](seed)  # what loads once is no part of an input's time
        (folder / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-timeout=60", f"-artifact_prefix={folder}/found-"]
    atheris.Setup([sys.argv[0], *options, str(folder)], TARGETS[name])
    atheris.Fuzz()
