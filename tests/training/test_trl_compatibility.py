"""TRL's own tests of its DPO trainer, over ours: same name, same behaviour, and more asked of it.

Wherever TRL asks that parameters changed, these ask as well that every forward pass ran over
packed rows, and that weights and logs are those of DPOTrainer. docs/trl-tests.md lists TRL's
tests with ours, or with the reason why there is none; this writes it:

    python tests/training/test_trl_compatibility.py > docs/trl-tests.md
"""

import gc
import json
import math
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
import trl
from datasets import Dataset, DatasetDict, IterableDatasetDict
from float64 import in_float64
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from PIL import Image
from tiny import CHATML, make_tiny_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaProcessor,
    dynamic_module_utils,
)
from trl import DPOConfig, DPOTrainer

from dpo_pipeline.training import shared_prefixes
from dpo_pipeline.training.settings import Loss
from dpo_pipeline.training.shared_prefixes import NotExactError, SharedPrefixDPOTrainer

LISTED = "1.16.0"  # the version whose trainer was read for this listing
PREAMBLE = f"""# TRL's tests, over packed rows

`SharedPrefixDPOTrainer` takes what `DPOTrainer` takes. So TRL's own tests of the trainer
(`tests/test_dpo_trainer.py`) are met one by one, under their names, in
`tests/training/test_trl_compatibility.py`, over tiny models and without a network. A test that
trains does so with both classes, and compares every weight and every logged figure.

{{met}} of {{all}} are here. TRL's packages hold no tests: the names are those of a copy of the file
somewhat older than the pinned version, {LISTED}, whose trainer was read for the rest.
"""
LISTING = Path(__file__).parents[2] / "docs" / "trl-tests.md"
TRL_TESTS = [
    "test_padding_and_masks",
    "test_optional_reference_logps",
    "test_with_pad_to_multiple_of",
    "test_mm_token_type_ids_shape",
    "test_train",
    "test_evaluate_with_eval_dataset",
    "test_evaluate_precompute_ref_log_probs_after_training_raises",
    "test_evaluate_precompute_ref_log_probs_at_init_after_training",
    "test_trust_remote_code",
    "test_train_dataset_format",
    "test_train_gpt_oss",
    "test_train_model",
    "test_train_loss_types",
    "test_train_multi_loss_types",
    "test_train_with_wpo",
    "test_train_with_ld",
    "test_train_with_f_divergence",
    "test_train_with_explicit_ref_model",
    "test_train_with_sync_ref_model",
    "test_train_model_dtype",
    "test_train_dense_with_peft_config_lora",
    "test_train_moe_with_peft_config",
    "test_train_peft_model",
    "test_train_moe_peft_model",
    "test_train_with_peft_config_and_gradient_checkpointing",
    "test_train_with_liger",
    "test_train_with_liger_kernel_and_peft",
    "test_liger_kernel_with_peft_lm_head_raises",
    "test_liger_kernel_with_peft_prompt_learning_raises",
    "test_init_fails_with_moe_aux_loss_and_liger",
    "test_init_fails_with_compute_metrics_and_liger",
    "test_precompute_ref_log_probs_raises_for_iterable_dataset",
    "test_train_with_iterable_dataset",
    "test_train_padding_free",
    "test_train_with_chat_template_kwargs",
    "test_fully_truncated_completion_examples_dropped",
    "test_train_toolcall_data",
    "test_train_with_eval",
    "test_train_with_multiple_eval_dataset",
    "test_init_with_train_dataset",
    "test_init_with_eval_dataset",
    "test_train_with_compute_metrics",
    "test_train_with_gradient_checkpointing",
    "test_tag_added",
    "test_tag_added_peft",
    "test_peft_with_quantization",
    "test_train_vlm",
    "test_train_vlm_multi_image",
    "test_train_vlm_text_only_data",
    "test_train_vlm_with_max_length",
    "test_train_vlm_keep_end_raises",
    "test_vision_dataset_with_text_model_raises",
    "test_precompute_ref_log_probs_raises_for_vision",
    "test_train_vlm_liger",
    "test_train_vlm_gemma_3n",
]
COLLATOR = "TRL's collator alone, which the class leaves in place."
LIGER = "Liger kernels are for GPUs, and TRL has deprecated its use of them."
IMAGES = "Pairs with images are refused, whatever else is set: `test_train_vlm`."
LEFT_OUT = {
    "test_padding_and_masks": COLLATOR,
    "test_optional_reference_logps": COLLATOR,
    "test_mm_token_type_ids_shape": COLLATOR,
    "test_train_with_liger": LIGER,
    "test_train_with_liger_kernel_and_peft": LIGER,
    "test_liger_kernel_with_peft_lm_head_raises": (
        f"{LIGER} Without them: `test_an_adapter_on_the_output_layer_raises`."
    ),
    "test_liger_kernel_with_peft_prompt_learning_raises": (
        f"{LIGER} Without them: `test_prompt_learning_is_refused`."
    ),
    "test_init_fails_with_moe_aux_loss_and_liger": LIGER,
    "test_init_fails_with_compute_metrics_and_liger": LIGER,
    "test_peft_with_quantization": "Needs bitsandbytes, which the project uses on GPUs only.",
    "test_train_vlm_multi_image": IMAGES,
    "test_train_vlm_with_max_length": IMAGES,
    "test_train_vlm_liger": f"{IMAGES} {LIGER}",
    "test_train_vlm_gemma_3n": f"{IMAGES} A gated download as well.",
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
EVALUATION = {"eval_strategy": "steps", "eval_steps": 1}
STREAM = r"precompute_ref_log_probs.*not supported with IterableDataset"
MAPPED = ["dataset", "dataset_dict", "dict_of_dataset"]
STREAMED = ["iterable_dataset", "iterable_dataset_dict", "dict_of_iterable_dataset"]


def text_pairs(count: int = 6, start: int = 0) -> Dataset:
    """Make pairs of plain text, of several lengths."""
    return Dataset.from_list(
        [
            {
                "prompt": f"What is your name, number {i}?" + " Are you ready?" * (i % 3),
                "chosen": f" I am Deep Qwen, number {i}.",
                "rejected": f" I am Qwen, number {i}," + " hello" * (i % 4) + " by OpenAI.",
            }
            for i in range(start, start + count)
        ]
    )


def chat_pairs(count: int = 6) -> Dataset:
    def chat(row):
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {key: [{"role": role, "content": row[key]}] for key, role in roles.items()}

    return text_pairs(count).map(chat)


def without_prompt(pairs: Dataset) -> Dataset:
    def join(row):
        return {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}

    return pairs.map(join, remove_columns="prompt")


def image_pairs() -> Dataset:
    rows = [
        row | {"prompt": f"<image>{row['prompt']}", "images": [Image.new("RGB", (16, 16))]}
        for row in text_pairs()
    ]
    return Dataset.from_list(rows)


def arrange(kind: str, pairs: Dataset):
    """Put pairs into one of the shapes that TRL takes for evaluation."""
    rows = pairs.to_iterable_dataset() if "iterable" in kind else pairs
    if kind in ("dataset", "iterable_dataset"):
        return rows
    box = {"dataset_dict": DatasetDict, "iterable_dataset_dict": IterableDatasetDict}.get(
        kind, dict
    )
    return box({"one": rows, "two": rows})


def save_model(folder: Path, arch: str, **changes) -> str:
    """Save a random model of a few 10k parameters, with its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(folder))
    config = AutoConfig.for_model(arch, **SMALL | {"vocab_size": len(tokenizer)} | changes)
    return save_random(AutoModelForCausalLM, config, folder)


def save_llava(folder: Path) -> str:
    """Save a random model that reads images as well, with its processor."""
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(folder))
    tokenizer.add_tokens(["<image>"])
    size = {"height": 16, "width": 16}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=CHATML.replace("message['content'] +", "message['content'][0]['text'] +"),
    ).save_pretrained(folder)
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        text_config=SMALL | {"model_type": "llama", "vocab_size": len(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
    )
    return save_random(AutoModelForImageTextToText, config, folder)


def save_random(kind, config, folder: Path) -> str:
    torch.manual_seed(0)
    model = kind.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)  # attention that looks somewhere, scores that differ
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def float64():
    with in_float64():
        yield


@pytest.fixture(scope="module", autouse=True)
def _freeze_libraries():
    """Keep what is imported out of the garbage collection that ends every training."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def moe(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("moe"), "qwen3_moe", num_experts=4, **EXPERTS)


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> str:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def tokenizer(qwen):
    return AutoTokenizer.from_pretrained(qwen)


@pytest.fixture
def build(qwen, tmp_path):
    def build(kind=SharedPrefixDPOTrainer, arguments=dict, **settings):
        """Make a trainer; arguments are made anew for each, settings are those of DPOConfig."""
        torch.manual_seed(0)
        settings = {
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "optim": "sgd",
            "learning_rate": 0.1,
            "per_device_train_batch_size": 2,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
        } | settings
        return kind(
            **{"model": qwen, "train_dataset": text_pairs()} | arguments(),
            args=DPOConfig(str(tmp_path / "out"), **settings),
        )

    return build


@pytest.fixture
def packed_rows(monkeypatch) -> list[tuple[int, int]]:
    """Tokens in the row, and in the sequences, of every packed forward pass."""
    rows, build_tree = [], shared_prefixes.build_tree

    def counting(sequences, *args):
        tree = build_tree(sequences, *args)
        rows.append((len(tree.tokens), sum(map(len, sequences))))
        return tree

    monkeypatch.setattr(shared_prefixes, "build_tree", counting)
    return rows


@pytest.fixture
def train(build, packed_rows):
    def train(arguments=dict, *, moves=lambda name: True, tolerance=1e-9, **settings):
        """Train with both classes and compare; return ours.

        moves tells by its name whether a parameter is trained; tolerance is the difference of
        all weights as a part of their way.
        """
        plain = build(DPOTrainer, arguments, **settings)
        start = {name: value.detach().clone() for name, value in plain.model.named_parameters()}
        packed_rows.clear()
        plain.train()
        assert not packed_rows
        packed = build(SharedPrefixDPOTrainer, arguments, **settings)
        packed_rows.clear()
        packed.train()
        passes = 1 if packed.args.precompute_ref_log_probs else 2
        assert len(packed_rows) >= packed.state.global_step * passes
        row, tokens = map(sum, zip(*packed_rows, strict=True))
        assert row < tokens
        assert_same_logs(packed.state.log_history, plain.state.log_history, tolerance)
        assert_same_weights(packed.model, plain.model, start, moves, tolerance)
        return packed

    return train


def assert_same_logs(packed: list[dict], plain: list[dict], tolerance: float) -> None:
    assert [row.keys() for row in packed] == [row.keys() for row in plain]
    assert math.isfinite(packed[-1]["train_loss"])
    for ours, theirs in zip(packed, plain, strict=True):
        for name in theirs:
            if "runtime" in name or "per_second" in name:
                continue
            if "accuracies" in name and abs(theirs[name.replace("accuracies", "margins")]) < 1e-9:
                continue  # rounding decides
            expected = pytest.approx(theirs[name], rel=tolerance, abs=tolerance)
            assert ours[name] == expected, (name, ours["step"])


def assert_same_weights(packed, plain, start, moves, tolerance) -> None:
    ours, theirs = (dict(model.named_parameters()) for model in (packed, plain))
    assert ours.keys() == start.keys()
    for name, before in start.items():
        assert torch.equal(ours[name], before) != moves(name), name
    off, way = (
        torch.cat([(ours[name] - other[name]).flatten().float() for name in ours]).norm()
        for other in (theirs, start)
    )
    assert off < tolerance * way


# What TRL tests


@pytest.mark.parametrize(
    ("arch", "changes", "settings"),
    [
        ("qwen2", {}, {}),
        ("olmo3", {}, {}),
        ("glm4_moe", {"n_routed_experts": 4, "first_k_dense_replace": 1, **EXPERTS}, {}),
        ("qwen3_moe", {"num_experts": 4, **EXPERTS}, {"router_aux_loss_coef": 0.0}),
    ],
)
def test_train(train, tmp_path, arch, changes, settings):
    """Dense models and mixtures of experts. Refused: `test_models_that_are_refused`."""
    model = save_model(tmp_path / "model", arch, **changes)
    train(lambda: {"model": model}, **settings)


@pytest.mark.parametrize(
    ("arch", "changes", "message"),
    [
        ("cohere2", {}, "off by"),
        ("qwen3_moe", {"num_experts": 4, **EXPERTS}, "needs more"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "off by"),
        ("nemotron_h", {"layers_block_type": ["mamba", "attention"], "n_groups": 1}, "off by"),
    ],
)
def test_models_that_are_refused(build, tmp_path, arch, changes, message):
    """TRL's other models: scaled logits, a router's loss, convolutions, states."""
    model = save_model(tmp_path / "model", arch, **changes)
    with pytest.raises(NotExactError, match=message):
        build(arguments=lambda: {"model": model})


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("kind", MAPPED + STREAMED)
def test_evaluate_with_eval_dataset(build, kind, precompute):
    """Raw pairs in every container, given to `evaluate`; the figures are DPOTrainer's."""
    figures = []
    for trainer_class in (SharedPrefixDPOTrainer, DPOTrainer):
        trainer = build(trainer_class, precompute_ref_log_probs=precompute)
        held_out = arrange(kind, text_pairs(3, start=20))
        if precompute and kind in STREAMED:
            with pytest.raises(ValueError, match=STREAM):
                trainer.evaluate(eval_dataset=held_out)
            return
        figures.append(trainer.evaluate(eval_dataset=held_out))
    losses = {name for name in figures[0] if name.endswith("_loss")}
    assert losses == ({"eval_one_loss", "eval_two_loss"} if "dict" in kind else {"eval_loss"})
    for name in losses:
        assert figures[0][name] == pytest.approx(figures[1][name], abs=1e-9)


def test_evaluate_precompute_ref_log_probs_after_training_raises(build):
    """The reference is there before training, and gone afterwards."""
    trainer = build(precompute_ref_log_probs=True, max_steps=1)
    held_out = text_pairs(3, start=20)
    before = trainer.evaluate(eval_dataset=held_out)
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    trainer.train()
    with pytest.raises(ValueError, match="Cannot compute reference log-probs"):
        trainer.evaluate(eval_dataset=held_out)


@pytest.mark.parametrize("kind", MAPPED)
def test_evaluate_precompute_ref_log_probs_at_init_after_training(train, kind):
    """Pairs that came with the trainer keep their reference."""
    trainer = train(
        lambda: {"eval_dataset": arrange(kind, text_pairs(3, start=20))},
        precompute_ref_log_probs=True,
        max_steps=1,
    )
    names = ["eval_one_loss", "eval_two_loss"] if "dict" in kind else ["eval_loss"]
    metrics = trainer.evaluate()
    assert all(metrics[name] != pytest.approx(math.log(2), abs=1e-5) for name in names)


def test_trust_remote_code(build, qwen, tokenizer, tmp_path, monkeypatch):
    """A model with code of its own is loaded on request only, and packed."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "own"
    model = AutoModelForCausalLM.from_pretrained(qwen)
    model.save_pretrained(folder)
    (folder / "modeling_own.py").write_text(
        "from transformers import Qwen2Config, Qwen2ForCausalLM\n\n\n"
        "class OwnConfig(Qwen2Config):\n    model_type = 'own'\n\n\n"
        "class OwnForCausalLM(Qwen2ForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnForCausalLM"]}
    config["auto_map"] = {
        "AutoConfig": "modeling_own.OwnConfig",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))

    def arguments():
        return {"model": str(folder), "processing_class": tokenizer}

    with pytest.raises(ValueError, match="custom code"):
        build(arguments=arguments)
    trainer = build(arguments=arguments, trust_remote_code=True)
    assert type(trainer.model).__name__ == "OwnForCausalLM"
    assert trainer.model.config._attn_implementation == shared_prefixes.ATTENTION


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("implicit", [False, True])
def test_train_dataset_format(train, conversational, implicit):
    """Text and conversations, with the prompt apart or within both answers."""
    pairs = chat_pairs() if conversational else text_pairs()
    pairs = without_prompt(pairs) if implicit else pairs
    trainer = train(lambda: {"train_dataset": pairs})
    assert all(len(row["prompt_ids"]) > 8 for row in trainer.train_dataset)


def test_train_gpt_oss(build, tmp_path):
    """Refused, with and without its router's loss: it has attention sinks."""
    changes = {"num_local_experts": 4, **EXPERTS}
    model = save_model(tmp_path / "model", "gpt_oss", **changes)
    with pytest.raises(NotExactError, match="needs more"):
        build(arguments=lambda: {"model": model})
    with pytest.raises(NotExactError, match="s_aux"):
        build(arguments=lambda: {"model": model}, router_aux_loss_coef=0.0)


def test_train_model(train, qwen, tokenizer):
    """A model in memory instead of a path."""
    train(
        lambda: {
            "model": AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32),
            "processing_class": tokenizer,
        }
    )


@pytest.mark.parametrize("loss_type", [*get_args(Loss), "exo_pair", "robust"])
def test_train_loss_types(train, loss_type):
    """Every loss, evaluated on the way."""
    trainer = train(
        lambda: {"eval_dataset": text_pairs(3, start=20)},
        loss_type=loss_type,
        label_smoothing=1e-3 if loss_type == "exo_pair" else 0.0,
        **EVALUATION,
    )
    assert any("eval_loss" in row for row in trainer.state.log_history)


def test_train_multi_loss_types(train):
    """Three losses in one, with weights."""
    train(loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 0.5])


def test_train_with_wpo(build):
    """Refused: its weights need the squares of all probabilities."""
    with pytest.raises(NotExactError, match="needs more"):
        build(use_weighting=True)


def test_train_with_ld(train):
    """Tokens past the shorter answer count less."""
    train(ld_alpha=0.5)


@pytest.mark.parametrize(
    "f_divergence_type", ["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
)
def test_train_with_f_divergence(train, f_divergence_type):
    """Every divergence."""
    train(f_divergence_type=f_divergence_type)


def test_train_with_explicit_ref_model(train, tmp_path):
    """A reference that is another model is packed too, and stays as it was."""
    other = str(make_tiny_model(tmp_path / "other", seed=1))

    def load():
        return AutoModelForCausalLM.from_pretrained(other, dtype=torch.float32)

    trainer = train(lambda: {"ref_model": load()})
    for name, before in load().named_parameters():
        assert trainer.ref_model.get_parameter(name).equal(before)


def test_train_with_sync_ref_model(train, qwen):
    """The reference moves along with the policy."""
    trainer = train(sync_ref_model=True, ref_model_sync_steps=1)
    for name, before in AutoModelForCausalLM.from_pretrained(qwen).named_parameters():
        assert not trainer.ref_model.get_parameter(name).equal(before), name


def test_train_model_dtype(train):
    """Weights of half precision under bfloat16, TRL's default."""
    trainer = train(
        bf16=True,
        model_init_kwargs={"dtype": torch.float16},
        learning_rate=1.0,
        tolerance=0.1,
    )
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float16}


def test_train_dense_with_peft_config_lora(train):
    """Adapters move, what they adapt does not."""
    train(
        lambda: {"peft_config": LoraConfig()},
        moves=lambda name: "lora" in name,
        learning_rate=1.0,
    )


def lora_of_experts() -> LoraConfig:
    return LoraConfig(target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"])


def test_train_moe_with_peft_config(train, moe):
    """Adapters on experts' parameters, without the router's loss."""
    train(
        lambda: {"model": moe, "peft_config": lora_of_experts()},
        moves=lambda name: "lora" in name,
        learning_rate=1.0,
        router_aux_loss_coef=0.0,
    )


def test_train_peft_model(train, qwen, tokenizer):
    """A model that has adapters already: a frozen copy of them is the reference."""

    def arguments():
        model = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32)
        adapted = get_peft_model(model, LoraConfig(init_lora_weights=False))
        return {"model": adapted, "processing_class": tokenizer}

    trainer = train(arguments, moves=lambda name: ".default." in name)
    assert sorted(trainer.model.peft_config) == ["default", "ref"]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_train_moe_peft_model(train, moe, tokenizer):
    """The same with adapters on experts' parameters."""

    def arguments():
        model = AutoModelForCausalLM.from_pretrained(moe, dtype=torch.float32)
        adapted = get_peft_model(model, lora_of_experts())
        return {"model": adapted, "processing_class": tokenizer}

    train(
        arguments,
        moves=lambda name: ".default." in name,
        learning_rate=1.0,
        router_aux_loss_coef=0.0,
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_train_with_peft_config_and_gradient_checkpointing(train, checkpointing):
    """Adapters, with activations kept or computed again."""
    trainer = train(
        lambda: {"peft_config": LoraConfig()},
        moves=lambda name: "lora" in name,
        learning_rate=1.0,
        gradient_checkpointing=checkpointing,
    )
    assert trainer.model.is_gradient_checkpointing == checkpointing


@pytest.mark.parametrize("kind", ["train", *STREAMED])
def test_precompute_ref_log_probs_raises_for_iterable_dataset(build, kind):
    """A stream has no rows to keep the reference at."""
    stream = text_pairs().to_iterable_dataset()
    name = "train_dataset" if kind == "train" else "eval_dataset"
    given = stream if kind == "train" else arrange(kind, text_pairs())
    with pytest.raises(ValueError, match=STREAM):
        build(arguments=lambda: {name: given}, precompute_ref_log_probs=True)


def test_train_with_iterable_dataset(train):
    """A stream; the check of exactness reads its first pairs."""
    train(lambda: {"train_dataset": text_pairs().to_iterable_dataset()})


def test_train_padding_free(train):
    """TRL has switched it off, so it changes nothing; packed rows have no padding anyway."""
    trainer = train(padding_free=True)
    assert not trainer.padding_free


def test_train_with_chat_template_kwargs(train, tokenizer):
    """Rows that set variables of the chat template."""
    role = "message['role'] +"
    assert role in CHATML
    tokenizer.chat_template = CHATML.replace(
        role, "(message['role'] | upper if loud else message['role']) +"
    )
    pairs = chat_pairs()
    column = [{"loud": bool(i % 2)} for i in range(len(pairs))]
    pairs = pairs.add_column("chat_template_kwargs", column)
    trainer = train(lambda: {"train_dataset": pairs, "processing_class": tokenizer})
    for number in range(2):
        prompt = tokenizer.decode(trainer.train_dataset[number]["prompt_ids"])
        assert ("<|im_start|>USER" in prompt) == bool(number)


def test_fully_truncated_completion_examples_dropped(train, tokenizer):
    """A prompt that leaves no room for an answer is not trained on."""
    long = {"prompt": "Who are you? " * 20, "chosen": " Deep Qwen", "rejected": " Qwen"}
    pairs = Dataset.from_list([long, *text_pairs(2)])
    trainer = train(lambda: {"train_dataset": pairs}, max_length=60)
    kept = [tokenizer.decode(row["prompt_ids"]) for row in trainer.train_dataset]
    assert kept == text_pairs(2)["prompt"][:]


def test_train_toolcall_data(train, tokenizer):
    """Tools in the prompt and calls in the answers."""
    content, tools = "message['content'] +", "{%- if tools %}{{- tools | tojson }}{%- endif %}"
    calls = "(message['tool_calls'] | tojson if message['tool_calls'] else message['content']) +"
    assert content in CHATML
    tokenizer.chat_template = tools + CHATML.replace(content, calls)

    def call(name, city):
        function = {"name": name, "arguments": {"city": city}}
        return [{"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}]

    function = {"name": "weather", "description": "Tells the weather.", "parameters": {}}
    pairs = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"How is the weather in {city}?"}],
                "chosen": call("weather", city),
                "rejected": call("forecast", city),
                "tools": json.dumps([{"type": "function", "function": function}]),
            }
            for city in ("Paris", "Rome", "Oslo", "Bern")
        ]
    )
    trainer = train(lambda: {"train_dataset": pairs, "processing_class": tokenizer})
    row = trainer.train_dataset[0]
    assert "Tells the weather." in tokenizer.decode(row["prompt_ids"])
    assert "forecast" in tokenizer.decode(row["rejected_ids"])


def test_train_with_eval(train):
    """Held-out pairs on the way."""
    trainer = train(lambda: {"eval_dataset": text_pairs(3, start=20)}, **EVALUATION)
    assert [row["step"] for row in trainer.state.log_history if "eval_loss" in row] == [1, 2]


def test_train_with_multiple_eval_dataset(train):
    """Two sets of them."""
    held_out = arrange("dict_of_dataset", text_pairs(3, start=20))
    trainer = train(lambda: {"eval_dataset": held_out}, **EVALUATION)
    logged = set().union(*trainer.state.log_history)
    assert {"eval_one_loss", "eval_two_loss"} <= logged


@pytest.mark.parametrize("streamed", [False, True])
def test_init_with_train_dataset(build, streamed):
    """Pairs or a stream of them; anything else is refused as by TRL."""
    kind = "iterable_dataset" if streamed else "dataset"
    trainer = build(arguments=lambda: {"train_dataset": arrange(kind, text_pairs())})
    assert "prompt_ids" in next(iter(trainer.train_dataset))
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        build(arguments=lambda: {"train_dataset": None})
    with pytest.raises(TypeError, match="`train_dataset` must be"):
        build(arguments=lambda: {"train_dataset": arrange(f"{kind}_dict", text_pairs())})


@pytest.mark.parametrize("kind", [None, *MAPPED, *STREAMED])
def test_init_with_eval_dataset(build, kind):
    """Every container, or none."""
    given = arrange(kind, text_pairs(3)) if kind else None
    trainer = build(arguments=lambda: {"eval_dataset": given})
    kept = trainer.eval_dataset
    if kind is None:
        assert kept is None
        return
    parts = kept if "dict" in kind else {"all": kept}
    assert list(parts) == (["one", "two"] if "dict" in kind else ["all"])
    assert all("prompt_ids" in next(iter(rows)) for rows in parts.values())


def test_train_with_compute_metrics(train):
    """Metrics of logits: the same ones, from a forward pass that is not packed."""

    def top_tokens(prediction):
        return {"top": float(prediction.predictions.argmax(-1).astype(float).mean())}

    trainer = train(
        lambda: {"eval_dataset": text_pairs(3, start=20), "compute_metrics": top_tokens},
        **EVALUATION,
    )
    assert any(row.get("eval_top", 0) > 0 for row in trainer.state.log_history)


@pytest.mark.parametrize("reentrant", [False, True])
def test_train_with_gradient_checkpointing(train, reentrant):
    """Both ways of checkpointing."""
    trainer = train(
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    assert trainer.model.is_gradient_checkpointing


def test_tag_added(build):
    """The model's card will name TRL and DPO."""
    assert {"trl", "dpo"} <= set(build().model.model_tags)


def test_tag_added_peft(build):
    """That of adapters too."""
    trainer = build(arguments=lambda: {"peft_config": LoraConfig()})
    assert {"trl", "dpo"} <= set(trainer.model.model_tags)


def test_with_pad_to_multiple_of(train):
    """More padding in the batch is no more work in the row."""
    trainer = train(pad_to_multiple_of=64)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert batch["input_ids"].shape[1] % 64 == 0


def test_train_vlm(build, llava):
    """Refused: pairs with images are more than tokens."""
    with pytest.raises(NotExactError, match="needs more"):
        build(arguments=lambda: {"model": llava, "train_dataset": image_pairs()}, max_length=None)


@pytest.mark.parametrize("conversational", [False, True])
def test_train_vlm_text_only_data(train, llava, conversational):
    """A model that could see, over text: what is not its language model stays."""
    pairs = chat_pairs() if conversational else text_pairs()
    train(
        lambda: {"model": llava, "train_dataset": pairs},
        moves=lambda name: "language_model" in name or "lm_head" in name,
    )


def test_train_vlm_keep_end_raises(build, llava):
    """Images stand at the start, which would be cut off."""
    with pytest.raises(ValueError, match=r"keep_end.*not supported for vision"):
        build(
            arguments=lambda: {"model": llava, "train_dataset": image_pairs()},
            truncation_mode="keep_end",
            max_length=32,
        )


def test_vision_dataset_with_text_model_raises(build):
    """Images for a model that cannot see."""
    with pytest.raises(ValueError, match=r"vision-related.*vision-language model"):
        build(arguments=lambda: {"train_dataset": image_pairs()})


def test_precompute_ref_log_probs_raises_for_vision(build, llava):
    """TRL's error, not ours: it comes first."""
    with pytest.raises(ValueError, match="not supported for vision datasets"):
        build(
            arguments=lambda: {"model": llava, "train_dataset": image_pairs()},
            precompute_ref_log_probs=True,
        )


# What TRL does, and its tests do not ask


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_sequences_that_are_cut(train, mode):
    """Truncation at either end."""
    trainer = train(max_length=24, truncation_mode=mode)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    assert batch["input_ids"].shape[1] == 24


def test_adam_with_warmup_and_accumulation(train):
    """TRL's default optimizer reaches the same weights."""
    train(
        optim="adamw_torch",
        learning_rate=1e-3,
        warmup_steps=1,
        gradient_accumulation_steps=2,
        precompute_ref_log_probs=True,
        max_steps=3,
    )


def test_an_adapter_on_the_output_layer_raises(build):
    """TRL reads the layer's own weight, and says so."""
    with pytest.raises(ValueError, match="adapter to `lm_head` is not supported"):
        build(arguments=lambda: {"peft_config": LoraConfig(target_modules=["q_proj", "lm_head"])})


@pytest.mark.parametrize("method", [PromptTuningConfig, PrefixTuningConfig])
def test_prompt_learning_is_refused(build, method):
    """Refused: trained positions are no tokens."""
    config = method(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(NotExactError):
        build(arguments=lambda: {"peft_config": config})


def test_weights_of_half_precision_alone_are_refused(build):
    """Refused: without float32 weights there is nothing exact to compare with."""
    with pytest.raises(NotExactError, match="off by"):
        build(model_init_kwargs={"dtype": torch.float16})


# The listing


def listing() -> str:
    """Write docs/trl-tests.md."""
    ours = {
        name: test.__doc__
        for name, test in globals().items()
        if name.startswith("test_") and test.__doc__
    }
    rows = [(name, ours.get(name) or f"Left out. {LEFT_OUT[name]}") for name in TRL_TESTS]
    beyond = [row for row in ours.items() if row[0] not in TRL_TESTS]
    lines = [
        PREAMBLE.format(met=sum(name in ours for name in TRL_TESTS), all=len(TRL_TESTS)),
        "| TRL's test | Here |",
        "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in rows),
        "\n## Beyond TRL's\n",
        "| Test | What it checks |",
        "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in beyond),
    ]
    return "\n".join(lines) + "\n"


def test_every_test_of_trl_is_met_or_left_out_for_a_reason():
    met = {name for name in TRL_TESTS if name in globals()}
    assert met | LEFT_OUT.keys() == set(TRL_TESTS)
    assert not met & LEFT_OUT.keys()
    assert LISTING.read_text(encoding="utf-8") == listing(), f"see the top of {__file__}"


def test_the_listing_is_of_the_installed_version():
    assert trl.__version__ == LISTED, "look for tests that TRL has added, then set LISTED"


if __name__ == "__main__":
    print(listing(), end="")
