"""DPO in which every shared token is computed once.

Chosen and rejected share the prompt and the start of the answer, and pairs share the system
prompt. A micro-batch therefore is a tree of tokens. It is laid out as one unpadded row, where
a token attends to its ancestors only and keeps the position it has in its own sequence, so
that every log-probability is the one of the plain padded batch:

    [system][prompt 1, common start][rest of chosen][rest of rejected][prompt 2 ...

Only the forward pass changes. Collator, loss, metrics, optimizer, checkpoints, adapters and
data parallelism stay TRL's: its loss asks the model for token log-probabilities, and gets
them in the shape it expects.
"""

import types
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from dpo_pipeline.training.packing import Block, Tree, build_tree
from dpo_pipeline.training.token_scores import Tokens

ATTENTION = "shared_prefix"
IDS = ["prompt_ids", "chosen_ids", "rejected_ids"]
# Gradients of the scores up to this size are kept for the backward pass; larger ones are made
# again there, tile by tile.
KEPT_BYTES = 1 << 30
EXACT = 1e-3  # nats; packed and plain differ by some 1e-5 in float32, a wrong mask by far more
TILE_BYTES = 1 << 28
CACHED = {"cpu": 1 << 20}  # float32 numbers that stay in a core's cache while worked on
UNCACHED = 1 << 28


class NotExactError(RuntimeError):
    """The packed forward pass of this model differs from the plain one."""


class _BlockAttention(torch.autograd.Function):
    """Softmax attention of a packed row, block by block.

    One function for the whole row: autograd over the blocks would fill a gradient of the
    row's size for each of them.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float
    ) -> Tensor:
        """Attend. Shapes (heads, nodes, dim), key and value with key heads."""
        out, heads, dim = torch.empty_like(query), *query.shape[::2]
        weights = []
        for block in tree.blocks:
            scores = _fold(query, block, len(key)) @ key[:, block.keys].mT
            scores *= scaling
            scores.view(len(key), -1, *block.bias.shape).add_(block.bias)
            weights.append(scores.softmax(dim=-1))
            mixed = weights[-1] @ value[:, block.keys]
            out[:, block.start : block.stop] = mixed.view(heads, -1, dim)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.tree, ctx.scaling = tree, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        heads, dim = query.shape[::2]
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for block, weight in zip(ctx.tree.blocks, weights, strict=True):
            grad = _fold(grads[0], block, len(key))
            grad_value.index_add_(1, block.keys, weight.mT @ grad)
            grad_weight = grad @ value[:, block.keys].mT
            grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            grad_score *= ctx.scaling
            grad = grad_score @ key[:, block.keys]
            grad_query[:, block.start : block.stop] = grad.view(heads, -1, dim)
            grad_key.index_add_(1, block.keys, grad_score.mT @ _fold(query, block, len(key)))
        return grad_query, grad_key, grad_value, None, None


def _fold(query: Tensor, block: Block, key_heads: int) -> Tensor:
    """Take a block's queries, the heads of a key head below each other: (key_heads, rows, dim)."""
    return query[:, block.start : block.stop].reshape(key_heads, -1, query.shape[-1])


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree: Tree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within the tree of a packed row, or as usual where there is none.

    Shapes (1, heads, nodes, dim), key and value with key heads; out (1, nodes, heads, dim).
    A CPU works block by block; any other device by FlexAttention, which compiles a kernel that
    skips the blocks in which nobody attends.

    Source: Dong et al. 2024, arXiv:2412.05496 (FlexAttention).
    """
    if tree is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    window = kwargs.get("sliding_window")
    if window is not None and window <= int(tree.positions.max()):
        raise NotExactError(f"its sliding window of {window} tokens is shorter than a pair")
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotExactError(f"its attention uses {name}")
    if dropout:
        raise NotExactError("its attention uses dropout")
    query, key = query.to(value.dtype), key.to(value.dtype)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.device.type == "cpu":
        attend: Any = _BlockAttention.apply
        out: Tensor = attend(query[0], key[0], value[0], tree, scaling)[None]
        return out.transpose(1, 2).contiguous(), None
    return flex_attention_forward(module, query, key, value, tree.flex_mask, scaling)[0], None


AttentionInterface.register(ATTENTION, _attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _TokenScores(torch.autograd.Function):
    """Log-probabilities of target tokens from hidden states, and what TRL logs of them.

    The forward pass makes the gradient of the scores in their place, so that the backward
    pass is two matrix products.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Score. Shapes (scored, width), (vocabulary, width), (scored,); all out (scored,)."""
        row_bytes = len(weight) * weight.element_size()
        kept = len(hidden) * row_bytes <= KEPT_BYTES
        ctx.rows = max(1, len(hidden) if kept else TILE_BYTES // row_bytes)
        figures = torch.empty(4, len(hidden), device=hidden.device)
        tiles = []
        for start in range(0, len(hidden), ctx.rows):
            rows = slice(start, start + ctx.rows)
            tile = _score(hidden[rows], weight, target[rows], figures[:, rows])
            tiles += [tile] if kept else []
        ctx.save_for_backward(hidden, weight, target, *tiles)
        logps, entropy, mean, top = figures
        hit = top.bool()
        ctx.mark_non_differentiable(entropy, mean, hit)
        return logps, entropy, mean, hit

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, target, *tiles = ctx.saved_tensors
        outer = -grads[0][:, None]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        unused = torch.empty(4, ctx.rows, device=hidden.device)
        for number, start in enumerate(range(0, len(hidden), ctx.rows)):
            rows = slice(start, start + ctx.rows)
            tile = tiles[number] if tiles else _score(hidden[rows], weight, target[rows], unused)
            grad_hidden[rows] = (tile @ weight) * outer[rows]
            if grad_weight is not None:
                grad_weight.addmm_(tile.mT, (hidden[rows] * outer[rows]).to(tile.dtype))
        return grad_hidden, grad_weight, None


def _score(hidden: Tensor, weight: Tensor, target: Tensor, figures: Tensor) -> Tensor:
    """Fill the figures: log-probability, entropy, mean score, whether the target is on top.

    Returns:
        The negated gradient of the log-probability by the scores: probabilities, minus one at
        the target. Shape (rows, vocabulary).
    """
    scores = hidden @ weight.mT
    step = max(1, CACHED.get(hidden.device.type, UNCACHED) // len(weight))
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        exact, wanted = scores[rows].float(), target[rows, None]
        top = exact.amax(dim=1)
        probability = (exact - top[:, None]).exp_()
        total = probability.sum(dim=1)
        probability /= total[:, None]
        normalizer = top + total.log()
        at_target = exact.gather(1, wanted)[:, 0]
        figures[0, rows] = at_target - normalizer
        figures[1, rows] = normalizer - torch.linalg.vecdot(probability, exact)
        figures[2, rows] = exact.mean(dim=1)
        figures[3, rows] = (at_target == top).float()
        # Subtracted before rounding: for a token that is almost sure, the rest is what counts.
        scores[rows] = probability.scatter_add_(1, wanted, probability.new_full(wanted.shape, -1))
    return scores


def share_prefix(model: Any) -> None:
    """Have a causal language model that TRL prepared compute shared tokens once.

    Applies to calls that ask for token log-probabilities of a padded batch
    (`fused_lm_head=True`); any other call runs as before.
    """
    plain = model.forward
    model.set_attn_implementation(ATTENTION)

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return plain(*args, **kwargs)
        if kwargs.get("input_ids") is None:
            raise NotExactError("it reads embeddings that are no tokens")
        batch = (kwargs[name] for name in ("input_ids", "attention_mask", "labels"))
        return _packed_forward(self, *batch)

    model.forward = types.MethodType(forward, model)


def packed_states(model: Any, rows: Sequence[Tokens]) -> Tensor:
    """Run rows packed; last hidden states where completion tokens are predicted.

    Args:
        model: One to which `share_prefix` was applied, or an adapter around it.
        rows: Prompt and completion, token ids.

    Returns:
        Row after row. Shape (completion tokens, width).
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    sequences = [[*prompt, *completion] for prompt, completion in rows]
    scored = [[False] * len(prompt) + [True] * len(completion) for prompt, completion in rows]
    width = max(map(len, sequences))
    tree = build_tree(sequences, scored, width, next(bare.parameters()).device)
    places = torch.cat([p[p < len(tree.source)] for p in tree.grid])
    return _run_tree(bare, tree)[tree.source[places]]


def _run_tree(model: Any, tree: Tree) -> Tensor:
    states: Tensor = model.base_model(
        input_ids=tree.tokens[None],
        position_ids=tree.positions[None],
        # A mask of four dimensions is taken as it is, so that no other is built.
        attention_mask=torch.empty(1, 1, 0, 0),
        use_cache=False,
        tree=tree,
    ).last_hidden_state[0]
    return states


def _packed_forward(
    model: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> FusedCausalLMOutput:
    lengths = attention_mask.sum(dim=1).tolist()
    sequences = [ids[:n] for ids, n in zip(input_ids.tolist(), lengths, strict=True)]
    scored = (labels != -100).tolist()
    tree = build_tree(sequences, scored, labels.shape[1], input_ids.device)
    hidden = _run_tree(model, tree)
    head, kind = model.get_output_embeddings(), hidden.device.type
    if head.bias is not None:
        raise NotExactError("its output layer has a bias")
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    score: Any = _TokenScores.apply
    figures = score(hidden[tree.source].to(dtype), head.weight.to(dtype), tree.target)
    logps, entropy, mean, top = (F.pad(figure, (0, 1))[tree.grid] for figure in figures)
    return FusedCausalLMOutput(
        log_probs=logps, entropy=entropy, mean_logits=mean, is_top1=top, label_mask=labels != -100
    )


class SharedPrefixDPOTrainer(DPOTrainer):
    """TRL's DPOTrainer over packed rows; takes the same arguments.

    Checks itself on some pairs when it is made, and raises NotExactError where the model
    gives them other log-probabilities packed than plain.
    """

    _shared = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._share()

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
        self._share()  # DPOTrainer calls this before its __init__ ends
        return super()._precompute_ref_logps(*args, **kwargs)

    def _share(self) -> None:
        if self._shared:
            return
        self._shared = True
        if self.aux_loss_enabled or self.use_weighting or self._is_vision_dataset:
            raise NotExactError("the loss needs more than log-probabilities of tokens")
        batch = self._sample()
        exact = self._logps(batch, exact=True)
        plain = self._logps(batch)
        for model in filter(None, (self.model, self.ref_model)):
            bare: Any = self.accelerator.unwrap_model(model)
            share_prefix(bare.get_base_model() if hasattr(bare, "get_base_model") else bare)
        try:
            # In training mode: dropout that TRL cannot switch off shows as a difference.
            packed = self._logps(batch, exact=True, training=True)
            rounded = self._logps(batch, training=True)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise NotExactError(str(error)) from error
        off = float((packed - exact).abs().max())
        policy: Any = self.model
        whole = next(policy.parameters()).dtype == torch.float32
        if (whole or not (self.args.bf16 or self.args.fp16)) and not off <= EXACT:
            raise NotExactError(f"packed log-probabilities are off by {off:.2g} nats, unrounded")
        # In reduced precision the plain pass is off as well; the packed one may be as far off.
        noise, ours = (float((logps - exact).abs().mean()) for logps in (plain, rounded))
        if not ours <= 2 * noise + EXACT:
            raise NotExactError(
                f"packed log-probabilities are off by {ours:.2g} nats, plain ones by {noise:.2g}"
            )

    def _sample(self) -> dict[str, Tensor]:
        """Collate the longest pair and up to two others, as far as a micro-batch goes."""
        size = self.args.per_device_train_batch_size
        dataset: Any = self.train_dataset
        rows = dataset.select_columns(IDS)
        if isinstance(rows, IterableDataset):  # a stream: its first micro-batch
            rows = Dataset.from_list(list(rows.take(size)))
        lengths = [sum(map(len, row.values())) for row in rows]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        picked = list(dict.fromkeys([longest, 0, len(lengths) - 1]))
        batch = self.data_collator([rows[i] for i in picked[:size]])
        return self._prepare_inputs(batch)

    def _logps(
        self, batch: dict[str, Tensor], *, exact: bool = False, training: bool = False
    ) -> Tensor:
        """Log-probabilities of tokens by the model as it is; exact: without autocast."""
        model: Any = self.model
        off = torch.autocast(self.accelerator.device.type, enabled=False)
        before = model.training
        model.train(training)
        with torch.no_grad(), off if exact else self.accelerator.autocast():
            output = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100),
                fused_lm_head=True,
            )
        model.train(before)
        logps: Tensor = output.log_probs
        return logps
