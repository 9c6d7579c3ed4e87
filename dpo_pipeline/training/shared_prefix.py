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

import logging
import types
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

log = logging.getLogger("dpo_pipeline.training")

ATTENTION = "shared_prefix"
BLOCK = 128  # query tokens of one attention block on CPU
# Score gradients up to this size are kept for the backward pass; larger ones are made again.
KEPT_BYTES = 1 << 30
TILE_BYTES = 1 << 28
CACHE_ELEMENTS = {"cpu": 1 << 20}  # numbers worked on at a time: what a core's cache holds


class NotExactError(RuntimeError):
    """The packed forward pass of this model differs from the plain one."""


@dataclass(frozen=True)
class Block:
    """Queries [start, stop) of the row and the keys they may need, as row indices."""

    start: int
    stop: int
    keys: Tensor  # (keys,)
    bias: Tensor  # (stop - start, keys): 0 where a query attends, -inf where not


@dataclass
class Tree:
    """The token tree of several sequences, in depth-first order.

    Attributes:
        tokens: Token ids. Shape (nodes,).
        positions: Depth of every token, its position in its own sequences. Shape (nodes,).
        stop: End of every token's subtree: j is an ancestor of i, or i, where
            j <= i < stop[j]. Shape (nodes,).
        source: Token whose hidden state predicts a scored token. Shape (scored,).
        target: Id of the scored token. Shape (scored,).
        grid: For every position of the padded batch the index of its score, or `scored`
            where nothing is scored. Shape (sequences, seq - 1).
    """

    tokens: Tensor
    positions: Tensor
    stop: Tensor
    source: Tensor
    target: Tensor
    grid: Tensor
    _blocks: dict[torch.dtype, list[Block]] = field(default_factory=dict)

    @cached_property
    def mask(self) -> Tensor:
        """Whether a query (row) attends to a key (column). Shape (nodes, nodes)."""
        index = torch.arange(len(self.stop), device=self.stop.device)
        return (index <= index[:, None]) & (index[:, None] < self.stop)

    def blocks(self, dtype: torch.dtype) -> list[Block]:
        """Cut the row into blocks of queries, each with its own keys only."""
        if dtype not in self._blocks:
            self._blocks[dtype] = [
                self._block(start, min(start + BLOCK, len(self.tokens)), dtype)
                for start in range(0, len(self.tokens), BLOCK)
            ]
        return self._blocks[dtype]

    def _block(self, start: int, stop: int, dtype: torch.dtype) -> Block:
        ancestors = (self.stop[:start] > start).nonzero()[:, 0]
        keys = torch.cat([ancestors, torch.arange(start, stop)])
        queries = torch.arange(start, stop)[:, None]
        seen = (keys <= queries) & (queries < self.stop[keys])
        bias = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
        return Block(start, stop, keys, bias)


def build_tree(sequences: list[list[int]], scored_from: list[list[bool]], width: int) -> Tree:
    """Merge sequences into a tree.

    Args:
        sequences: Token ids of every sequence, without padding.
        scored_from: For every token of every sequence, whether it is scored.
        width: Length of the padded batch (tokens).
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    tokens: list[int] = []
    positions: list[int] = []
    stop: list[int] = []
    scores: dict[int, int] = {}  # node -> index of its score
    source: list[int] = []
    grid = [[-1] * (width - 1) for _ in sequences]
    path: list[int] = []  # nodes from the root to the end of the sequence before
    for row in order:
        sequence = sequences[row]
        shared = 0
        while shared < min(len(path), len(sequence)) and tokens[path[shared]] == sequence[shared]:
            shared += 1
        for node in path[shared:]:
            stop[node] = len(tokens)
        fresh = range(len(tokens), len(tokens) + len(sequence) - shared)
        path = [*path[:shared], *fresh]
        tokens += sequence[shared:]
        positions += range(shared, len(sequence))
        stop += [0] * len(fresh)
        for column in range(1, len(sequence)):
            if scored_from[row][column]:
                node = path[column]
                if node not in scores:
                    scores[node] = len(source)
                    source.append(path[column - 1])
                grid[row][column - 1] = scores[node]
    for node in path:
        stop[node] = len(tokens)
    ids = torch.tensor(tokens)
    places = torch.tensor(grid)
    return Tree(
        tokens=ids,
        positions=torch.tensor(positions),
        stop=torch.tensor(stop),
        source=torch.tensor(source, dtype=torch.long),
        target=ids[list(scores)],
        grid=places.masked_fill(places < 0, len(source)),
    )


class _BlockAttention(torch.autograd.Function):
    """Softmax attention of a packed row, block by block.

    One function for the whole row: autograd over the blocks would fill a gradient of the
    row's size for each of them.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float
    ) -> Tensor:
        # query (heads, nodes, dim); key, value (kv_heads, nodes, dim)
        out = torch.empty_like(query)
        weights = []
        for block in tree.blocks(query.dtype):
            weight = _weights(block, query, key, scaling)
            weights.append(weight)
            mixed = weight @ value[:, block.keys]
            out[:, block.start : block.stop] = mixed.view(len(query), -1, query.shape[-1])
        ctx.save_for_backward(query, key, value, *weights)
        ctx.tree, ctx.scaling = tree, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        (grad_out,) = grads
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for block, weight in zip(ctx.tree.blocks(query.dtype), weights, strict=True):
            rows = slice(block.start, block.stop)
            keys = block.keys
            grad = grad_out[:, rows].reshape(len(key), -1, key.shape[-1])
            grad_value.index_add_(1, keys, weight.mT @ grad)
            grad_weight = grad @ value[:, keys].mT
            grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            grad_score *= ctx.scaling
            grad_query[:, rows] = (grad_score @ key[:, keys]).view(len(query), -1, key.shape[-1])
            asked = query[:, rows].reshape(len(key), -1, key.shape[-1])
            grad_key.index_add_(1, keys, grad_score.mT @ asked)
        return grad_query, grad_key, grad_value, None, None


def _weights(block: Block, query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Attention weights of a block, query heads folded into their key head.

    Shape (kv_heads, heads / kv_heads * queries, keys).
    """
    asked = query[:, block.start : block.stop].reshape(len(key), -1, key.shape[-1])
    scores = asked @ key[:, block.keys].mT
    scores *= scaling
    scores.view(len(key), -1, *block.bias.shape).add_(block.bias)
    return scores.softmax(dim=-1)


def tree_attention(
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

    Args:
        module: The attention layer.
        query: Shape (1, heads, nodes, dim); key and value with kv_heads.
        key: See query.
        value: See query.
        attention_mask: Unused for a packed row.
        scaling: Factor on the scores; None: 1 / sqrt(dim).
        dropout: On the attention weights.
        tree: The packed row.
        **kwargs: What else the model passes to its attention.

    Returns:
        Shape (1, nodes, heads, dim), and None for the weights.

    Raises:
        NotExactError: When the layer attends in a way that a tree cannot follow.
    """
    if tree is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        return plain
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
        out = _BlockAttention.apply(query[0], key[0], value[0], tree, scaling)[None]
    else:
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=tree.mask, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, tree_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class _TokenLogProbs(torch.autograd.Function):
    """Log-probabilities of target tokens from hidden states, and what TRL logs of them.

    The gradient of the scores, probability minus one at the target, is made in the forward
    pass in place of the scores, so that the backward pass is two matrix products.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
    ) -> tuple[Tensor, ...]:
        # hidden (scored, width), weight (vocabulary, width), target (scored,)
        row_bytes = weight.shape[0] * hidden.element_size()
        kept = len(hidden) * row_bytes <= KEPT_BYTES
        ctx.rows = len(hidden) if kept else max(1, TILE_BYTES // row_bytes)
        figures = torch.empty(4, len(hidden), device=hidden.device)
        tiles = []
        for start in range(0, len(hidden), max(1, ctx.rows)):
            rows = slice(start, start + ctx.rows)
            tile = _score(hidden[rows], weight, bias, target[rows], figures[:, rows])
            tiles.append(tile)
            if not kept:
                tiles.clear()
        ctx.save_for_backward(hidden, weight, bias, target, *tiles)
        logps, entropy, mean, top = figures
        top = top.bool()
        ctx.mark_non_differentiable(entropy, mean, top)
        return logps, entropy, mean, top

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, target, *tiles = ctx.saved_tensors
        outer = -grads[0][:, None]
        grad_hidden = torch.empty_like(hidden)
        grad_weight = grad_bias = None
        for number, start in enumerate(range(0, len(hidden), max(1, ctx.rows))):
            rows = slice(start, start + ctx.rows)
            if tiles:
                tile = tiles[number]
            else:
                unused = torch.empty(4, len(target[rows]), device=hidden.device)
                tile = _score(hidden[rows], weight, bias, target[rows], unused)
            grad_hidden[rows] = (tile @ weight) * outer[rows]
            if ctx.needs_input_grad[1]:
                part = tile.mT @ (hidden[rows] * outer[rows]).to(tile.dtype)
                grad_weight = part if grad_weight is None else grad_weight + part
            if bias is not None and ctx.needs_input_grad[2]:
                part = (tile * outer[rows]).sum(0)
                grad_bias = part if grad_bias is None else grad_bias + part
        return grad_hidden, grad_weight, grad_bias, None


def _score(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, figures: Tensor
) -> Tensor:
    """Fill figures (log-prob, entropy, mean score, is top; rows) and return dlogp/dscore, negated.

    Shape (rows, vocabulary).
    """
    scores = F.linear(hidden, weight, bias)
    at_once = max(1, CACHE_ELEMENTS.get(hidden.device.type, 1 << 28) // weight.shape[0])
    for start in range(0, len(hidden), at_once):
        rows = slice(start, start + at_once)
        exact = scores[rows].float()
        wanted = target[rows, None]
        at_target = exact.gather(1, wanted)[:, 0]
        top, best = exact.max(dim=1)
        normalizer = exact.logsumexp(dim=1)
        probability = (exact - normalizer[:, None]).exp_()
        figures[0, rows] = at_target - normalizer
        figures[1, rows] = normalizer - torch.linalg.vecdot(probability, exact)
        figures[2, rows] = exact.mean(dim=1)
        figures[3, rows] = (best == target[rows]).float()
        probability.scatter_add_(1, wanted, torch.full_like(probability[:, :1], -1.0))
        scores[rows] = probability
    return scores


def share_prefix(model: PreTrainedModel) -> None:
    """Have a model with TRL's fused head compute shared tokens once.

    Applies to calls that ask for token log-probabilities of a padded batch
    (`fused_lm_head=True`); any other call runs as before.
    """
    plain = model.forward
    model.set_attn_implementation(ATTENTION)

    def forward(
        self: PreTrainedModel,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        fused_lm_head: bool = False,
        **kwargs: Any,
    ) -> Any:
        if fused_lm_head:
            return _packed_forward(self, input_ids, attention_mask, labels)
        return plain(input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs)

    model.forward = types.MethodType(forward, model)


def _packed_forward(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
) -> FusedCausalLMOutput:
    lengths = attention_mask.sum(dim=1).tolist()
    pairs = list(zip(input_ids.tolist(), (labels != -100).tolist(), lengths, strict=True))
    tree = build_tree([i[:n] for i, _, n in pairs], [s[:n] for _, s, n in pairs], labels.shape[1])
    hidden = model.base_model(
        input_ids=tree.tokens[None],
        position_ids=tree.positions[None],
        # A mask that is already 4D is taken as it is, and none is built.
        attention_mask=torch.empty(1, 1, 0, 0),
        use_cache=False,
        tree=tree,
    ).last_hidden_state[0]
    head = model.get_output_embeddings()
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    bias = None if head.bias is None else head.bias.to(dtype)
    figures = _TokenLogProbs.apply(
        hidden[tree.source].to(dtype), head.weight.to(dtype), bias, tree.target
    )
    logps, entropy, mean, top = (F.pad(figure, (0, 1))[tree.grid] for figure in figures)
    return FusedCausalLMOutput(
        log_probs=logps, entropy=entropy, mean_logits=mean, is_top1=top, label_mask=labels != -100
    )


class SharedPrefixDPOTrainer(DPOTrainer):
    """TRL's DPOTrainer over packed rows; raises NotExactError where a model cannot be packed.

    Takes the arguments of DPOTrainer.
    """

    _shared = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._share()

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
        self._share()  # TRL calls this within its __init__
        return super()._precompute_ref_logps(*args, **kwargs)

    def _share(self) -> None:
        if self._shared:
            return
        self._shared = True
        if self.aux_loss_enabled or self.use_weighting:
            raise NotExactError("the loss needs more than token log-probabilities")
        batch = self._sample()
        exact = self._logps(batch, exact=True)
        # In reduced precision the plain pass itself is off; the packed one may be as far off.
        rounding = (self._logps(batch) - exact).abs().max()
        for model in filter(None, (self.model, self.ref_model)):
            bare = self.accelerator.unwrap_model(model)
            share_prefix(bare.get_base_model() if hasattr(bare, "get_base_model") else bare)
        try:
            # In training mode: dropout that TRL cannot switch off shows as a difference.
            difference = (self._logps(batch, training=True) - exact).abs().max()
        except (NotExactError, TypeError, RuntimeError, ValueError) as error:
            raise NotExactError(f"packing fails: {error}") from error
        if not difference <= 3 * rounding + 1e-3:
            raise NotExactError(f"packed log-probabilities are off by {difference:.2g} nats")

    def _sample(self) -> dict[str, Tensor]:
        """Collate the longest pair and two others."""
        rows = self.train_dataset
        lengths = [
            len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
            for row in rows
        ]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        picked = sorted({0, len(lengths) - 1, longest})
        batch: dict[str, Tensor] = self._prepare_inputs(
            self.data_collator([rows[i] for i in picked])
        )
        return batch

    def _logps(
        self, batch: dict[str, Tensor], *, exact: bool = False, training: bool = False
    ) -> Tensor:
        """Token log-probabilities under the model as it is, without autocast if exact."""
        off = torch.autocast(self.accelerator.device.type, enabled=False)
        before = self.model.training
        self.model.train(training)
        with torch.no_grad(), off if exact else self.accelerator.autocast():
            output = self.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100),
                fused_lm_head=True,
            )
        self.model.train(before)
        logps: Tensor = output.log_probs
        return logps
