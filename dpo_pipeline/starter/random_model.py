"""A model with random weights, of any architecture that a config.json describes: for learners."""

import json
from pathlib import Path

from dpo_pipeline.errors import ModelError
from dpo_pipeline.starter.build import END, START, ModelStats, save, seeded, train_tokenizer
from dpo_pipeline.starter.corpus import write_conversations

CONVERSATIONS = 2000  # what the tokenizer learns its words from
TEMPLATE = (
    f"{{% for m in messages %}}{START}{{{{ m.role }}}}\n{{{{ m.content }}}}{END}\n{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{START}assistant\n{{% endif %}}"
)


def init_model(config: Path, out: Path, seed: int = 0) -> ModelStats:
    """Initialise a model from a config and save it as a model folder.

    The tokenizer is a small byte-level one; its size and its tokens replace those of the config.

    Args:
        config: A config.json of transformers: model_type and sizes.
        out: Empty folder; gets config, weights (safetensors), tokenizer and chat template.
        seed: Seed of the weights and of what the tokenizer is trained on.
    Raises:
        ModelError: The file is no config of a causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = train_tokenizer(write_conversations(CONVERSATIONS, seed))
    tokenizer.chat_template = TEMPLATE
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        settings = {**json.loads(config.read_text(encoding="utf-8")), **ids}
        architecture = AutoConfig.for_model(settings.pop("model_type"), **settings)
        with seeded(seed):
            model = AutoModelForCausalLM.from_config(architecture, dtype=torch.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{config} does not describe a causal language model ({type(error).__name__}: "
            f'{error}); it needs "model_type" (llama, gpt2, ...) and sizes'
        ) from error
    return save(model, tokenizer, out)
