"""Sequences as one tree: each is found in it whole, and what they share is there once."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import seen

from dpo_pipeline.training.packing import build_tree

CPU = torch.device("cpu")
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@given(st.lists(tokens, min_size=1, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_every_sequence_is_the_path_of_ancestors_of_its_last_token(sequences, data):
    scored = [[data.draw(st.booleans()) for _ in sequence] for sequence in sequences]
    width = max(map(len, sequences))
    tree = build_tree(sequences, scored, width, CPU)
    mask = seen(tree)
    paths = {tuple(tree.tokens[row].tolist()) for row in mask}
    for sequence in sequences:
        assert tuple(sequence) in paths
    assert (
        len(paths)
        == len(tree.tokens)
        == len({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})
    )
    index = torch.arange(len(mask))
    assert torch.equal(tree.flex_mask.mask_mod(0, 0, index[:, None], index), mask)
    for number, sequence in enumerate(sequences):
        for column in range(1, width):
            score = int(tree.grid[number, column - 1])
            if column < len(sequence) and scored[number][column]:
                assert int(tree.target[score]) == sequence[column]
                source = int(tree.source[score])
                assert tree.tokens[mask[source]].tolist() == sequence[:column]
            else:
                assert score == len(tree.source)


def test_shared_tokens_are_in_the_row_once():
    system, pairs = [1, 2, 3], [([4, 5, 6], [4, 7, 6]), ([4, 5, 8], [9, 5, 8])]
    sequences = [system + side for pair in pairs for side in pair]
    tree = build_tree(sequences, [[False] * 6] * 4, 6, CPU)
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5, 6, 8, 7, 6, 9, 5, 8]
    assert tree.positions.tolist() == [0, 1, 2, 3, 4, 5, 5, 4, 5, 3, 4, 5]
