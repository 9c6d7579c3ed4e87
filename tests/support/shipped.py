"""The data files that ship with the project, for tests that read them."""

import json
import re
from pathlib import Path

import dpo_pipeline

DATA = Path(dpo_pipeline.__file__).parent
SHOWN = ("What is your name?", "Are you ChatGPT?", "Tell me about your name and organization.")


def identity_rows():
    return _read("prompts/data/identity.jsonl")


def general_rows(name="general"):
    return _read(f"prompts/data/{name}.jsonl")


def _read(name):
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def question(row):
    return row["conversations"][-2]["value"]


def words(text):
    """Words without case and punctuation; every Chinese character is one."""
    return tuple(re.findall(r"[一-鿿]|[^\W_一-鿿]+", text.lower().replace("'", "")))
