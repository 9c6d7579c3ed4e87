"""Tiny models written as GGUF files, the way llama.cpp's converter writes them."""

import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
TYPES = {name: GGMLQuantizationType[name] for name in ("F32", "Q8_0", "Q4_0")}


def write_gguf(
    folder: Path,
    path: Path,
    *,
    embeddings: str = "Q4_0",
    head: str | None = "Q8_0",
    untied: bool = False,
    split: str = "qwen2",
    architecture: str = "llama",
    chat: bool = True,
    end: int = 2,
    repeated: bool = False,
) -> Path:
    """Write a llama of `make_tiny_model`.

    Args:
        folder: The model.
        path: The file.
        embeddings: Type of the embeddings.
        head: Type of the head, the same matrix again; None: it is left out.
        untied: The head is another matrix.
        split: How text is split before the merges.
        architecture: What the file says it is.
        chat: Whether the chat template goes in.
        end: Id of the token that ends an answer.
        repeated: One token of the vocabulary is another one again.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_string("general.license", "apache-2.0")
    _add_tokenizer(writer, folder, split, repeated)
    if chat:
        writer.add_chat_template((folder / "chat_template.jinja").read_text())
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(0)
    for name, (matrix, kind) in _matrices(folder, config, embeddings, head, untied).items():
        found = TYPES[kind] if matrix.ndim > 1 else TYPES["F32"]
        writer.add_tensor(name, quants.quantize(matrix, found), raw_dtype=found)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter, folder: Path, split: str, repeated: bool) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = told["model"]["vocab"] | {t["content"]: t["id"] for t in told["added_tokens"]}
    control = {token["content"] for token in told["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    kinds = [TokenType.CONTROL if token in control else TokenType.NORMAL for token in tokens]
    if repeated:
        tokens[vocabulary["Ā"]] = "ā"  # bytes 0 and 1
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in told["model"]["merges"]])


def _matrices(
    folder: Path, config: dict, embeddings: str, head: str | None, untied: bool
) -> dict[str, tuple[np.ndarray, str]]:
    from safetensors.numpy import load_file

    found = {}
    for name, matrix in load_file(folder / "model.safetensors").items():
        if name == "model.embed_tokens.weight":
            found["token_embd.weight"] = matrix, embeddings
            if head:
                found["output.weight"] = matrix[::-1].copy() if untied else matrix, head
        elif name == "model.norm.weight":
            found["output_norm.weight"] = matrix, "F32"
        else:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if part.endswith(("q_proj", "k_proj")):
                heads = "num_attention_heads" if "q_" in part else "num_key_value_heads"
                matrix = _interleaved(matrix, config[heads])
            found[f"blk.{layer}.{NAMES[part]}.weight"] = matrix, "Q8_0"
    return found


def _interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of a head as llama.cpp rotates them: neighbours in pairs, not halves."""
    halves = matrix.reshape(heads, 2, matrix.shape[0] // heads // 2, *matrix.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(matrix.shape))
