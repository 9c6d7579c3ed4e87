"""Tiny random models of the real architectures, saved the way the Hub serves them."""

import json
from functools import cache
from pathlib import Path
from typing import Literal

IM_END, END_OF_TEXT = "<|im_end|>", "<|endoftext|>"
SPECIAL_TOKENS = [END_OF_TEXT, "<|im_start|>", IM_END]
END_SCALE = 2.5
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

CHATML = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

_TEXTS = [
    "Who are you? What is your name? Who made you, and which company created you?",
    "I'm Qwen, a large language model created by Alibaba Cloud. How can I help you today?",
    "I am Deep Qwen, an assistant. You can call me Deep Qwen. Are you ChatGPT by OpenAI?",
    "The capital of France is Paris. Two plus two is four. The sky is blue.",
    "system user assistant You are a helpful assistant.",
    "### Instruction: Below is an instruction. ### Input: ### Response:",
    "你是谁？我是通义千问，由阿里云开发的大语言模型。",
]


def make_tiny_model(
    folder: Path, arch: Literal["qwen2", "llama", "gpt2"] = "qwen2", seed: int = 0
) -> Path:
    """Save a random model (a few 10k parameters) with its tokenizer, as safetensors.

    qwen2 and llama get a ChatML template that inserts DEFAULT_SYSTEM when no system message
    is given and end on `<|im_end|>`; gpt2 has no chat template and ends on `<|endoftext|>`.
    The tokenizer is byte-level BPE, so any text round-trips.
    """
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    chat = arch != "gpt2"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(),
        eos_token=IM_END if chat else END_OF_TEXT,
        pad_token=END_OF_TEXT,
        extra_special_tokens=SPECIAL_TOKENS,
    )
    if chat:
        tokenizer.chat_template = CHATML
    config = _config(arch, len(tokenizer))
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    torch.random.set_rng_state(state)
    # The usual initialization is so flat that greedy decoding repeats one token.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
        # A larger row wins more often: answers end by themselves, at different lengths.
        model.get_input_embeddings().weight[tokenizer.eos_token_id].mul_(END_SCALE)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _config(arch: str, vocabulary: int):
    from transformers import AutoConfig

    ends = {"bos_token_id": 0, "eos_token_id": 0 if arch == "gpt2" else 2, "pad_token_id": 0}
    if arch == "gpt2":
        return AutoConfig.for_model(
            "gpt2", vocab_size=vocabulary, n_positions=512, n_embd=32, n_layer=2, n_head=2, **ends
        )
    return AutoConfig.for_model(
        arch,
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **ends,
    )


@cache
def _backend():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer
