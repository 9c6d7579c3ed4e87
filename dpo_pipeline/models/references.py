"""Models and tokenizers: where one is, what it is (digests), and how it is loaded.

A model is a folder of safetensors, a config, a tokenizer and usually a chat template.
`resolve_model` finds it without importing torch; what loads weights imports torch itself.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from dpo_pipeline.errors import ModelError
from dpo_pipeline.hub.client import ask, resolve_revision

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Message = Mapping[str, str]

DOWNLOADED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Models below this width are slower in bfloat16 than in float32 on a CPU.
NARROW = 256


class ModelRef(BaseModel):
    """A model at rest: where it lies and what it is.

    Attributes:
        name: What it was configured as: a folder, a Hub id, or "starter".
        path: Its folder.
        revision: Commit of a Hub model; None for a folder.
        weights_digest: sha256 over the safetensors and the config.
        template_digest: sha256 over what turns messages into tokens and ends an answer: chat
            template, tokenizer and generation config.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str
    path: Path
    revision: str | None
    weights_digest: str
    template_digest: str


def resolve_model(name: str, revision: str | None = None) -> ModelRef:
    """Find a local folder, or a Hub model at one commit; cheap errors before anything loads.

    Args:
        name: A folder that exists, or a Hub id ("owner/name").
        revision: Hub branch, tag or commit; None for the default branch.
    Raises:
        ModelError: It is neither, or the Hub does not give it; the message says what to do.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return describe_model(folder.absolute(), name)
    if folder.exists():
        raise ModelError(f"model.name {name!r} is a file; give the folder that holds config.json")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "/")):
        raise ModelError(
            f"model.name {name!r}: no such folder, and not a Hub id (owner/name); "
            f"folders are looked up from {Path.cwd()}"
        )
    from huggingface_hub import snapshot_download

    commit = resolve_revision(name, "model", revision)
    wanted: dict[str, Any] = {"allow_patterns": DOWNLOADED, "ignore_patterns": "*/*"}
    path = ask(lambda: snapshot_download(name, revision=commit, **wanted), name, "model")
    return describe_model(Path(path), name, commit)


def describe_model(path: Path, name: str, revision: str | None = None) -> ModelRef:
    """Digest a model folder.

    Raises:
        ModelError: It has no config, or no weights in safetensors.
    """
    weights = sorted(path.glob("*.safetensors"))
    configs = [p for n in ("config.json", "adapter_config.json") if (p := path / n).is_file()]
    if not configs:
        raise ModelError(f"{name}: no config.json in {path}: give the folder of a saved model")
    if not weights:
        pickles = ", ".join(sorted(p.name for pattern in PICKLES for p in path.glob(pattern)))
        raise ModelError(
            f"{name}: no *.safetensors in {path}{f', only {pickles}' if pickles else ''}: a pickle "
            "can run code when it loads and is never read; convert it where you trust it, with "
            "from_pretrained(...) and save_pretrained(...)"
        )
    patterns = ("token*.json", "*.jinja", "vocab*", "merges.txt", "*.model", "*tokens*.json")
    template = {p for pattern in patterns for p in path.glob(pattern)}
    template |= {p for p in [path / "generation_config.json"] if p.is_file()}
    return ModelRef(
        name=name,
        path=path,
        revision=revision,
        weights_digest=_digest([*weights, *configs]),
        template_digest=_digest(sorted(template)),
    )


def _digest(files: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as handle:
            content = hashlib.file_digest(handle, "sha256").hexdigest()
        whole.update(f"{path.name}\0{content}\n".encode())
    return whole.hexdigest()


def load_tokenizer(ref: ModelRef) -> "PreTrainedTokenizerBase":
    """Load the tokenizer; one without a pad token pads with its end token.

    Raises:
        ModelError: It does not load without code of its own, or does not keep words.
    """
    from transformers import AutoTokenizer

    remedy = f"save the model's tokenizer in {ref.path}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            ref.path, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{ref.name}: its tokenizer does not load: {error}; {remedy}") from error
    # Where files are missing or name another class, transformers may make one without words.
    kept = str(tokenizer.decode(tokenizer("Who are you?")["input_ids"]))
    if "who" not in kept.lower():
        raise ModelError(f"{ref.name}: its tokenizer loses the words of 'Who are you?'; {remedy}")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    ref: ModelRef, device: str = "auto", dtype: Literal["auto", "float32", "bfloat16"] = "auto"
) -> "PreTrainedModel":
    """Load the weights, whole, for inference.

    Args:
        ref: The model.
        device: "auto", "cpu" or "cuda".
        dtype: Precision; auto as in `pick_precision`.
    Raises:
        ModelError: A tensor is missing or of another shape, or the architecture needs code
            that does not come with transformers.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # callers have their own
    place = pick_device(device)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            ref.path,
            dtype=getattr(torch, pick_precision(ref, device, dtype)),
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{ref.name}: does not load from {ref.path}: {error}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{ref.name}: {len(missing)} tensors are missing from {ref.path} "
            f"({', '.join(missing[:3])}): the copy is damaged or of another architecture; "
            "download it again"
        )
    return model.to(place).eval()  # type: ignore[no-any-return]


def pick_device(name: str) -> "torch.device":
    """Turn "auto" into the GPU if there is one, and refuse a GPU that is not there.

    Raises:
        ModelError: "cuda" without a GPU that torch can use.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ModelError("model.device is cuda, but torch sees no GPU: set it to auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def pick_precision(
    ref: ModelRef, device: str, dtype: Literal["auto", "float32", "bfloat16"]
) -> Literal["float32", "bfloat16"]:
    """Turn "auto" into bfloat16 where the hardware computes it well, else into float32.

    That is a GPU, or a CPU with bfloat16 instructions and a model wide enough to gain. It
    depends on hardware and architecture only: a model before and after training gets the same.
    """
    if dtype != "auto":
        return dtype
    import torch

    if pick_device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        file = ref.path / "config.json"
        shape = json.loads(file.read_bytes()) if file.is_file() else {}
        known = torch.cpu.get_capabilities()
        fast = any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
        fast = fast and shape.get("hidden_size", shape.get("n_embd", 0)) >= NARROW
    return "bfloat16" if fast else "float32"


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> str:
    """Write the prompt as the model reads it, up to where its answer starts.

    With a chat template that is the template's text. A base model without one gets the
    instruction format of Alpaca: each user turn under "### Instruction:", each answer under
    "### Response:", a system message before them.
    """
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True
        )
        return str(text)
    heads = {"user": "### Instruction:\n", "assistant": "### Response:\n"}
    parts = [heads.get(m["role"], "") + m["content"] for m in messages]
    return "\n\n".join([*parts, heads["assistant"]])


def render_pair(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Sequence[Message],
    completions: Sequence[Sequence[Message]],
) -> list[str]:
    """Write the prompt alone, then with each completion, as TRL does before it tokenizes.

    Raises:
        TemplateError: The chat template refuses the messages.
    """
    start = render(tokenizer, prompt)
    if tokenizer.chat_template:
        whole = ([dict(m) for m in (*prompt, *messages)] for messages in completions)
        return [start, *(str(tokenizer.apply_chat_template(w, tokenize=False)) for w in whole)]
    end = tokenizer.eos_token or ""
    return [start, *(start + messages[0]["content"] + end for messages in completions)]


def encode(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """Return the token ids of `render`."""
    # A chat template writes its own special tokens; the plain format leaves them to the tokenizer.
    plain = not tokenizer.chat_template
    text = render(tokenizer, messages)
    # Not verbose: callers hold lengths against the model's, and say what comes of it.
    ids: list[int] = tokenizer(text, add_special_tokens=plain, verbose=False)["input_ids"]
    return ids


def end_tokens(ref: ModelRef, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Collect the tokens that end an answer.

    Those of the generation config, the tokenizer's own, and the special token that the chat
    template writes after an answer: the three disagree in many published models.
    """
    from jinja2 import TemplateError
    from transformers import GenerationConfig

    ends: set[int] = set()
    if (ref.path / "generation_config.json").is_file():
        eos = GenerationConfig.from_pretrained(ref.path, local_files_only=True).eos_token_id
        ends.update([eos] if isinstance(eos, int) else eos or [])
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    if tokenizer.chat_template:
        mark = "ANSWER"
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}]
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except TemplateError:
            text = mark  # a template that does not write answers has no token after them
        after = tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
        special = tokenizer.added_tokens_decoder
        if after and after[0] in special and special[after[0]].special:
            ends.add(after[0])
    if not ends:
        raise ModelError(f"{ref.name}: neither generation_config.json nor its tokenizer names an "
                         "end token; set eos_token in tokenizer_config.json")  # fmt: skip
    return tuple(sorted(ends))
