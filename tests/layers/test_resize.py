"""Position embeddings for another length or size."""

from __future__ import annotations

import torch

from gesta.layers.resize import resize_line, resize_map


def test_neighbours_are_repeated_or_left_out() -> None:
    table = torch.arange(8.0).view(1, 4, 2)
    assert resize_line(table, 8)[0, :, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert resize_line(table, 2)[0].tolist() == [[0, 1], [4, 5]]
    grid = torch.arange(4.0).view(1, 1, 2, 2)
    assert resize_map(grid, (2, 4))[0, 0].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    assert resize_map(grid[:, :, None], (2, 2, 2)).flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_kind_of_number_stays_and_the_same_size_is_exact() -> None:
    table = torch.rand(1, 3, 2, dtype=torch.float64)
    assert torch.equal(resize_line(table, 3), table) and resize_line(table, 5).dtype == torch.float64
    assert resize_line(table.bfloat16(), 5).dtype == torch.bfloat16
