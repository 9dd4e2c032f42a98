"""Class purification in closed form, and with OpenCV-free oracles."""

from __future__ import annotations

import pytest
import torch

from sclip_lab.segmentation.readouts import freecp as cp


def test_transition_is_symmetric_with_rows_that_sum_to_about_one() -> None:
    attention = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)) + 0.1
    result = cp.transition(attention)
    torch.testing.assert_close(result, result.T)
    torch.testing.assert_close(result.sum(1), torch.ones(12), atol=1e-3, rtol=0)
    uniform = torch.full((4, 4), 0.25)
    torch.testing.assert_close(cp.transition(uniform), uniform)


def test_boxes_of_two_parts_leave_out_the_last_row_and_column() -> None:
    activation = torch.zeros(6, 7)
    activation[1, 1:3] = 1.0
    activation[4:, 5:] = 0.9
    activation[0, 6] = 0.3  # below 0.4 of the maximum
    assert sorted(cp.boxes(activation)) == [(1, 1, 2, 3), (4, 5, 5, 6)]


def test_spreading_by_nothing_is_the_map_in_its_boxes() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 1:3] = torch.tensor([1.0, 0.5])
    maps[0, 3, 3] = 0.2
    result = cp.spread(maps, torch.eye(16))
    maps[0, 3, 3] = 0.0
    torch.testing.assert_close(result, maps, atol=1e-6, rtol=0)


def test_agreement_of_equal_and_of_disjoint_maps() -> None:
    one = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert cp.agreement(one, one).item() == pytest.approx(0.5)
    assert cp.agreement(one, one.flip(2)).item() == 0


def test_groups_are_linked_by_way_of_others() -> None:
    maps = torch.tensor([[[1.0, 0, 0, 0]], [[1, 1, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 0, 1.0]]])
    assert cp.ambiguous(maps, 0.5) == [[0, 1, 2], [3]]
    assert cp.ambiguous(maps, 0.6) == [[0], [1], [2], [3]]


def test_the_best_of_a_group_in_each_box_is_kept() -> None:
    maps = torch.zeros(3, 5, 5)
    maps[:2, 1, 1] = 1.0
    maps[:2, 1, 3] = 1.0
    scores = {1: torch.tensor([0.1, 0.9, 0.0]), 3: torch.tensor([0.5, 0.2, 0.9])}
    assert cp.winners(maps, [[0, 1], [2]], lambda box: scores[box[1]]) == [0, 1, 2]
    assert cp.winners(maps, [[0, 1]], lambda box: scores[1]) == [1]
    assert cp.winners(maps, [[0, 1]], lambda box: None) == [0, 1]
