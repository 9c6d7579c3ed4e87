"""What a packed row of tokens must mean, told without the code that packs it."""

import torch


def seen(tree):
    """Whether a query (row) attends to a key (column), from the parents that positions tell."""
    mask, path = torch.eye(len(tree.tokens), dtype=torch.bool), []
    for node, depth in enumerate(tree.positions.tolist()):
        path = [*path[:depth], node]
        mask[node, path] = True
    return mask
