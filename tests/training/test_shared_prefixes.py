"""Packed rows give what padded rows give: the tree, its attention, and every number of TRL."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from float64 import in_float64
from tiny import make_tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.integrations.flex_attention import flex_attention_forward
from trees import seen
from trl import DPOConfig, DPOTrainer

from dpo_pipeline.training import packing, shared_prefixes
from dpo_pipeline.training.packing import build_tree
from dpo_pipeline.training.shared_prefixes import (
    NotExactError,
    SharedPrefixDPOTrainer,
    _BlockAttention,
    _TokenScores,
)

CPU = torch.device("cpu")
EXACT = 1e-10  # parts in float64: rounding is some 1e-14
VOCABULARY = 300
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 1024, "n_embd": 32, "n_layer": 2, "n_head": 2}
LOSSES = [
    ["sigmoid"],
    ["sigmoid", "sft"],
    ["hinge"],
    ["ipo"],
    ["exo_pair"],
    ["nca_pair"],
    ["robust"],
    ["bco_pair"],
    ["sppo_hard"],
    ["aot"],
    ["aot_unpaired"],
    ["apo_zero"],
    ["apo_down"],
    ["discopop"],
    ["sigmoid_norm"],
]


def make_model(arch: str, seed: int = 0, **changes):
    values = dict(GPT2 if arch == "gpt2" else SMALL) | changes
    if arch in ("gpt_neox", "falcon"):
        del values["num_key_value_heads"]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(arch, **values)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.get_default_dtype())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # attention that looks somewhere, scores that differ
    return model


def random_tokens(count: int, generator: random.Random) -> list[int]:
    return [generator.randrange(3, VOCABULARY) for _ in range(count)]


def make_pairs(seed: int = 0) -> list[dict]:
    """Pairs of every shape, under two system prompts."""
    draw = random.Random(seed)
    systems = [random_tokens(9, draw), random_tokens(5, draw)]
    start, end = random_tokens(4, draw), random_tokens(20, draw)
    answers = [
        ([*start, 7, *end], [*start, 8, 9, *end]),
        (random_tokens(12, draw), random_tokens(15, draw)),  # nothing in common
        ([*end, 5], [*end, 6]),  # all but the last token
        (end, end[:7]),  # nothing left on one side
        ([5], [6]),  # a token long
        ([5, *random_tokens(300, draw)], [6, *random_tokens(200, draw)]),  # several blocks
    ]
    return [
        {
            "prompt_ids": systems[i % 2] + random_tokens(draw.randint(1, 8), draw),
            "chosen_ids": chosen,
            "rejected_ids": rejected,
        }
        for i, (chosen, rejected) in enumerate(answers)
    ]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def build(tokenizer, tmp_path):
    """Make a trainer of one kind or the other, over tokens."""

    def build(kind, model, pairs=None, reference=None, peft_config=None, eval_dataset=None, **more):
        class Trainer(kind):
            def _prepare_dataset(self, dataset, *args):
                return dataset

        arguments = {
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "report_to": "none",
            "max_length": None,
            "label_smoothing": 0.1,
        } | more
        return Trainer(
            model,
            None if peft_config else reference or make_model("llama", 1),
            args=DPOConfig(str(tmp_path), **arguments),
            train_dataset=Dataset.from_list(pairs or make_pairs()),
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            peft_config=peft_config,
        )

    return build


def measure(trainer):
    """Loss, logged metrics and gradients of one batch with every pair."""
    pairs = trainer.train_dataset
    batch = trainer._prepare_inputs(trainer.data_collator([pairs[i] for i in range(len(pairs))]))
    assert batch["completion_mask"].sum() == sum(
        len(pair[side]) for pair in pairs for side in ("chosen_ids", "rejected_ids")
    )
    trainer.model.train()
    trainer.model.zero_grad()
    with trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }
    return loss.item(), metrics, gradients


def assert_same(packed, plain):
    """Compare what was measured in float64."""
    assert packed[0] == pytest.approx(plain[0], rel=EXACT, abs=EXACT)
    assert packed[1] == pytest.approx(plain[1], rel=EXACT, abs=EXACT)
    assert packed[2].keys() == plain[2].keys()
    for name, expected in plain[2].items():
        assert expected.dtype == torch.float64
        # A gradient that is next to nothing is compared with the whole.
        size = max(float(expected.norm()), 1e-3 * whole(plain[2]))
        assert float((packed[2][name] - expected).norm()) < EXACT * size, name


def whole(gradients) -> float:
    return float(torch.cat([gradient.flatten() for gradient in gradients.values()]).norm())


# The tree


def attend_densely(query, key, value, tree, scaling):
    key, value = (x.repeat_interleave(len(query) // len(key), dim=0) for x in (key, value))
    scores = (query @ key.mT * scaling).masked_fill(~seen(tree), -torch.inf)
    return scores.softmax(-1) @ value


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=EXACT, atol=EXACT)


@in_float64()
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_block_attention_equals_dense_attention_under_the_mask(monkeypatch, key_heads):
    monkeypatch.setattr(packing, "BLOCK", 16)
    pairs = make_pairs()
    sequences = [p["prompt_ids"] + p[k] for p in pairs for k in ("chosen_ids", "rejected_ids")]
    tree = build_tree(sequences, [[False] * len(s) for s in sequences], 400, CPU)
    assert len(tree.blocks) > 20
    torch.manual_seed(0)
    shapes = [(4, len(tree.tokens), 8), *[(key_heads, len(tree.tokens), 8)] * 2]
    ours = [torch.randn(shape, requires_grad=True) for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    out = _BlockAttention.apply(*ours, tree, 0.3)
    dense = attend_densely(*theirs, tree, 0.3)
    assert_close(out, dense)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (dense * weight).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.grad, other.grad)


@in_float64()
@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_token_scores_equal_log_softmax_whatever_is_kept(monkeypatch, kept):
    monkeypatch.setattr(shared_prefixes, "KEPT_BYTES", kept)
    monkeypatch.setattr(shared_prefixes, "TILE_BYTES", 7 * 8 * VOCABULARY)
    monkeypatch.setattr(shared_prefixes, "CACHED", {"cpu": 3 * VOCABULARY})
    torch.manual_seed(0)
    hidden, weight = torch.randn(20, 16), torch.randn(VOCABULARY, 16)
    target = torch.randint(VOCABULARY, (20,))
    ours = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    theirs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    logps, entropy, mean, top = _TokenScores.apply(*ours, target)
    scores = theirs[0] @ theirs[1].T
    every = scores.log_softmax(-1)
    expected = every.gather(1, target[:, None])[:, 0]
    assert_close(logps, expected)
    assert_close(entropy, -(every.exp() * every).sum(1))
    assert_close(mean, scores.mean(1))
    assert top.tolist() == (scores.argmax(1) == target).tolist()
    outer = torch.randn(20)
    (logps * outer).sum().backward()
    (expected * outer).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.grad, other.grad)


# The trainer


@in_float64()
@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 8}),
        ("gpt2", {}),
        ("gpt_neox", {}),
        ("phi3", {}),
        ("olmo2", {}),
        ("mistral", {"sliding_window": 2048}),
    ],
)
def test_loss_metrics_and_gradients_are_those_of_dpotrainer(build, arch, changes):
    results = []
    for kind in (SharedPrefixDPOTrainer, DPOTrainer):
        reference = make_model(arch, 1, **changes)
        trainer = build(kind, make_model(arch, **changes), reference=reference)
        results.append(measure(trainer))
    assert len(results[0][1]) == 11
    assert_same(*results)


@in_float64()
def test_every_loss_of_trl_stays_its_own(build):
    packed = build(SharedPrefixDPOTrainer, make_model("llama"))
    plain = build(DPOTrainer, make_model("llama"))
    for losses in LOSSES:
        for trainer in (packed, plain):
            trainer.loss_types, trainer.loss_weights = losses, [1.0, 0.3][: len(losses)]
        assert_same(measure(packed), measure(plain))


@in_float64()
@pytest.mark.parametrize("more", [{"f_divergence_type": "js_divergence"}, {"ld_alpha": 0.5}])
def test_variants_of_the_loss_stay_their_own(build, more):
    trainers = [build(k, make_model("llama"), **more) for k in (SharedPrefixDPOTrainer, DPOTrainer)]
    assert_same(*map(measure, trainers))


@in_float64()
def test_truncation_counts_as_in_dpotrainer(build):
    results = []
    for kind in (SharedPrefixDPOTrainer, DPOTrainer):
        trainer = build(kind, make_model("llama"))
        trainer.data_collator.max_length = 24
        trainer.train_dataset = trainer.train_dataset.select([0, 1, 5])
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
        assert batch["input_ids"].shape[1] == 24
        trainer.model.train()
        results.append(trainer.compute_loss(trainer.model, batch).item())
    assert results[0] == pytest.approx(results[1], rel=EXACT)


@in_float64()
def test_adapters_and_checkpointing_change_nothing(build):
    from peft import LoraConfig

    def lora():
        return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")

    results = []
    for kind, checkpointing in (
        (SharedPrefixDPOTrainer, False),
        (SharedPrefixDPOTrainer, True),
        (DPOTrainer, False),
    ):
        trainer = build(
            kind,
            make_model("llama"),
            peft_config=lora(),
            activation_checkpointing=checkpointing,
        )
        torch.manual_seed(3)
        with torch.no_grad():  # as if trained for a while: adapters start without effect
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
        results.append(measure(trainer))
    assert all("lora" in name for name in results[0][2])
    assert_same(results[0], results[2])
    assert_same(results[1], results[2])


@pytest.mark.parametrize("bf16", [False, True])
def test_rounding_is_no_further_from_exact_than_that_of_dpotrainer(build, bf16):
    def run(kind, **more):
        model, reference = make_model("llama"), make_model("llama", 1)
        for layer in (model, reference):
            layer.load_state_dict(weights)
        return measure(build(kind, model, reference=reference, **more))

    weights = make_model("llama").state_dict()
    with in_float64():
        exact = run(DPOTrainer)
    rounded = [run(kind, bf16=bf16) for kind in (SharedPrefixDPOTrainer, DPOTrainer)]

    def error(result) -> float:
        return whole({name: result[2][name] - g for name, g in exact[2].items()})

    assert 0 < error(rounded[0]) < 2 * error(rounded[1])
    assert abs(rounded[0][0] - exact[0]) < 0.1


@in_float64()
def test_precomputed_reference_and_evaluation_are_those_of_dpotrainer(build):
    held_out = Dataset.from_list(make_pairs(7))
    figures = []
    for kind in (SharedPrefixDPOTrainer, DPOTrainer):
        trainer = build(
            kind,
            make_model("llama"),
            eval_dataset=held_out,
            precompute_ref_log_probs=True,
            per_device_train_batch_size=3,
        )
        columns = trainer.train_dataset.with_format("torch")
        logps = [columns[f"ref_{side}_logps"][:] for side in ("chosen", "rejected")]
        figures.append((torch.cat(logps), trainer.evaluate()))
    assert_close(figures[0][0], figures[1][0])
    for name, value in figures[1][1].items():
        if "runtime" not in name and "per_second" not in name:
            assert figures[0][1][name] == pytest.approx(value, rel=EXACT, abs=EXACT), name


@in_float64()
def test_accumulation_clipping_and_a_whole_run_reach_the_same_weights(build):
    settings = {"max_steps": 6, "learning_rate": 1e-3, "max_grad_norm": 0.5, "save_strategy": "no"}
    pairs = make_pairs()[:5] * 2
    runs = []
    for kind, at_once in ((SharedPrefixDPOTrainer, 5), (DPOTrainer, 1)):
        trainer = build(
            kind,
            make_model("llama"),
            pairs,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=5 // at_once,
            disable_tqdm=True,
            **settings,
        )
        trainer.train()
        runs.append(trainer.model.state_dict())
    start = make_model("llama").state_dict()
    for name, expected in runs[1].items():
        moved = float((expected - start[name]).norm())
        assert moved > 0
        assert float((runs[0][name] - expected).norm()) < 1e-6 * moved


def test_generation_runs_as_before(build):
    model = make_model("llama")
    prompt = torch.tensor([[5, 6, 7], [0, 8, 9]])
    arguments = {"attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]]), "max_new_tokens": 12}
    before = model.generate(prompt, do_sample=False, **arguments)
    trainer = build(SharedPrefixDPOTrainer, model)
    assert trainer.model is model
    assert model.generate(prompt, do_sample=False, **arguments).equal(before)


# The self-check


@pytest.mark.parametrize(
    ("arch", "changes", "message"),
    [
        ("mistral", {"sliding_window": 64}, "sliding window of 64"),
        ("gemma2", {"head_dim": 8, "sliding_window": 2048}, "softcap"),
        ("falcon", {"new_decoder_architecture": True}, "must match the size"),
        ("granite", {"logits_scaling": 8.0}, "off by"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "off by"),
        ("phi", {}, "bias"),
        ("llama", {"attention_dropout": 0.2}, "dropout"),
    ],
)
def test_models_that_cannot_be_packed_are_found_out(build, arch, changes, message):
    with pytest.raises(NotExactError, match=message):
        build(
            SharedPrefixDPOTrainer,
            make_model(arch, **changes),
            reference=make_model(arch, 1, **changes),
            per_device_train_batch_size=3,
        )


def test_a_loss_that_needs_more_than_log_probs_is_found_out(build):
    with pytest.raises(NotExactError, match="needs more"):
        build(SharedPrefixDPOTrainer, make_model("llama"), use_weighting=True)


@in_float64()
def test_the_attention_of_a_gpu_gives_the_same_numbers(build, monkeypatch):
    """FlexAttention, which has no backward pass on a CPU, with the forward pass of a GPU's."""
    ours = build(SharedPrefixDPOTrainer, make_model("llama"))
    batch = ours._sample()
    blocks = ours._logps(batch)
    monkeypatch.setattr(_BlockAttention, "apply", attend_by_flex)
    assert_close(ours._logps(batch), blocks)


def attend_by_flex(query, key, value, tree, scaling):
    rows = (tensor[None] for tensor in (query, key, value))
    with torch.compiler.set_stance("force_eager"):
        out, _ = flex_attention_forward(torch.nn.Identity(), *rows, tree.flex_mask, scaling)
    return out[0].transpose(0, 1)


def test_importing_the_package_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, dpo_pipeline.training.run; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "False"


SHARDED = """
import torch
import torch.distributed as dist
from test_shared_prefixes import make_model
from torch.distributed.fsdp import fully_shard

from dpo_pipeline.training.shared_prefixes import share_prefix

dist.init_process_group("gloo")
plain, sharded = (make_model("qwen2", tie_word_embeddings=True) for _ in range(2))
for model in (plain, sharded):
    share_prefix(model)
for layer in sharded.model.layers:
    fully_shard(layer)
fully_shard(sharded)
ids = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(dist.get_rank()))
ids[1, :12] = ids[0, :12]
labels = ids.clone()
labels[:, :6] = -100
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
for model in (plain, sharded):
    model(**batch, fused_lm_head=True).log_probs.sum().backward()
for one, part in zip(plain.parameters(), sharded.parameters(), strict=True):
    dist.all_reduce(one.grad, op=dist.ReduceOp.SUM)
    torch.testing.assert_close(part.grad.full_tensor(), one.grad / dist.get_world_size())
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_weights_sharded_over_two_processes_get_the_same_gradients(tmp_path):
    (tmp_path / "sharded.py").write_text(SHARDED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "sharded.py")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
