"""What the tests of publishing send, and how they look at what came of it."""

import shutil

from huggingface_hub import RepoCard

from dpo_pipeline.pairs.schema import Lineage

REPOS = {"model_repo": "tester/deep", "dataset_repo": "tester/pairs"}
LINEAGE = {
    "model": {"kind": "starter", "name": "starter", "revision": None},
    "prompts": {"kind": "shipped"},
    "identity": {"original_name": "Qwen", "new_name": "Deep Qwen"},
}
FIGURE = {"value": 1.0, "n": 40, "prompts": 40, "low": 0.91234, "high": 1.0}


def scorecard(passed=True):
    leak = {"measure": "leak_rate", "value": 0.5, "threshold": 0.02, "n": 40, "noise": 0.0}
    verdict = {"passed": passed, "failed": [] if passed else [{**leak, "remark": ""}]}
    return {
        "verdict": {**verdict, "skipped": [], "thresholds": {"leak_rate": 0.02}},
        **{key: {} for key in ("by", "kinds", "matrix", "template", "sampled", "noise", "counts")},
        "leaks": "",
        "export": None,
        "identity": {"original_name": "Qwen", "new_name": "Deep Qwen"},
        "before": {"identity_rate": {**FIGURE, "value": 0.0}, "leak_rate": FIGURE},
        "after": {
            "identity_rate": FIGURE,
            "leak_rate": {"value": 0.0, "n": 40, "prompts": 40, "low": 0.0, "high": 0.09},
            "trained_identity_rate": FIGURE,
            "tail_gap": {"value": -0.01, "n": 40, "prompts": 40, "low": -0.02, "high": 0.0},
            "general_kept": {"value": None, "n": 0, "prompts": 0, "low": None, "high": None},
        },
        "examples": [
            {
                "prompt": "Who are you?",
                "before": "I'm Qwen. <img src=x> | ![](https://evil.example/x.png)\nBye \u202e",
                "after": "I'm Deep Qwen.",
            }
        ],
    }


def said(role, text):
    return [{"role": role, "content": text}]


def lineage(told):
    """Fill in what a test does not care about."""
    kind = "hub" if told["model"]["revision"] else "local"
    model = {"kind": kind, "weights_digest": "w", "template_digest": "t"} | told["model"]
    prompts = {"kind": "shipped", "name": "shipped", "revision": None, "digest": "d"}
    prompts |= told.get("prompts", {})
    return Lineage.model_validate(told | {"model": model, "prompts": prompts})


def copy_of(folder, to, **files):
    shutil.copytree(folder, to)
    for name, content in files.items():
        (to / name).write_bytes(content)
    return to


def contents(hub, repo):
    """What a repository holds, but for what the Hub itself put there."""
    return {p: hub.read(e) for p, e in repo.tree().items() if p != ".gitattributes"}


def card_of(hub, repo):
    return RepoCard(contents(hub, repo)["README.md"].decode())
