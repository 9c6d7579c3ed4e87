"""How pairs are packed: sequences as one tree of tokens in a row, what they share there once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

BLOCK = 128  # query tokens of one attention block on a CPU


class Block(NamedTuple):
    """Queries [start, stop) of the row, the keys they may need, and who sees whom."""

    start: int
    stop: int
    keys: Tensor  # (keys,), indices into the row
    bias: Tensor  # (stop - start, keys), 0 where the query attends, -inf where not


@dataclass(frozen=True)
class Tree:
    """The token tree of several sequences, in depth-first order.

    A token i descends from j, or is j, where j <= i < stop[j].
    """

    tokens: Tensor  # (nodes,), ids
    positions: Tensor  # (nodes,), depth of every token: its position in its own sequences
    stop: Tensor  # (nodes,), end of every token's subtree
    source: Tensor  # (scored,), index into the row of the token whose hidden state predicts it
    target: Tensor  # (scored,), id of every scored token
    grid: Tensor  # (sequences, seq - 1), index of each position's score; `scored`: it has none

    @cached_property
    def flex_mask(self) -> BlockMask:
        """Who sees whom, in the form that FlexAttention compiles."""
        nodes, stop = len(self.stop), self.stop

        def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query < stop[key])

        return create_block_mask(attends, None, None, nodes, nodes, device=stop.device)

    @cached_property
    def blocks(self) -> list[Block]:
        """The row cut into blocks of queries, each with its own keys only, for a CPU."""
        blocks = []
        for start in range(0, len(self.stop), BLOCK):
            queries = torch.arange(start, min(start + BLOCK, len(self.stop)))
            ancestors = (self.stop[:start] > start).nonzero()[:, 0]
            keys = torch.cat([ancestors, queries])
            seen = (keys <= queries[:, None]) & (queries[:, None] < self.stop[keys])
            bias = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
            blocks.append(Block(start, start + len(queries), keys, bias))
        return blocks


def build_tree(
    sequences: list[list[int]], scored: list[list[bool]], width: int, device: torch.device
) -> Tree:
    """Merge sequences into a tree.

    In sorted order a sequence shares all it can with the one before, so that its fresh tokens
    simply go to the end of the row. Sequences come without padding; `scored` says of each of
    their tokens whether it is scored; `width` is the length of the padded batch (tokens).
    """
    tokens: list[int] = []
    positions: list[int] = []
    stop: list[int] = []
    source: list[int] = []
    scores: dict[int, int] = {}  # index into the row -> index of its score
    grid = [[-1] * (width - 1) for _ in sequences]
    path: list[int] = []  # the sequence before, as indices into the row
    for number in sorted(range(len(sequences)), key=sequences.__getitem__):
        sequence, shared = sequences[number], 0
        while shared < min(len(path), len(sequence)) and tokens[path[shared]] == sequence[shared]:
            shared += 1
        for node in path[shared:]:
            stop[node] = len(tokens)
        path[shared:] = range(len(tokens), len(tokens) + len(sequence) - shared)
        tokens += sequence[shared:]
        positions += range(shared, len(sequence))
        stop += [0] * (len(sequence) - shared)
        for column in range(1, len(sequence)):
            if scored[number][column]:
                node = path[column]
                if node not in scores:
                    scores[node] = len(source)
                    source.append(path[column - 1])
                grid[number][column - 1] = scores[node]
    for node in path:
        stop[node] = len(tokens)

    def tensor(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    places = tensor(grid)
    return Tree(
        tokens=tensor(tokens),
        positions=tensor(positions),
        stop=tensor(stop),
        source=tensor(source),
        target=tensor([tokens[node] for node in scores]),
        grid=places.masked_fill(places < 0, len(source)),
    )
