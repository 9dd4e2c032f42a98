"""Similarity maps against labels: closed forms and scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from sclip_lab.diagnostics.localisation import (
    localisation_auc,
    pointing_game,
    rank_accuracy,
    relevance_mass,
)

ALL = (pointing_game, relevance_mass, rank_accuracy, localisation_auc)
LABELS = torch.tensor([[0, 0, 0, 2, 2, -1]])


def perfect(labels: Tensor, classes: int = 3) -> Tensor:
    return torch.stack([(labels == c).float() for c in range(classes)], dim=-1)


def test_perfect_and_inverted_maps() -> None:
    right = perfect(LABELS)
    assert [f(right, LABELS).item() for f in ALL] == [1, 1, 1, 1]
    assert [f(-right, LABELS).item() for f in ALL] == [0, 0, pytest.approx(1 / 6), 0]


def test_the_void_patch_may_say_anything() -> None:
    wild = perfect(LABELS)
    wild[0, -1] = 100
    assert [f(wild, LABELS).item() for f in ALL] == [1, 1, 1, 1]


def test_a_flat_map_has_no_mass_and_the_area_of_chance() -> None:
    flat = torch.zeros(1, 6, 3)
    assert relevance_mass(flat, LABELS).item() == 0
    assert localisation_auc(flat, LABELS).item() == 0.5


def test_by_hand() -> None:
    maps = torch.zeros(1, 6, 3)
    maps[0, :, 0] = torch.tensor([0.3, 0.1, 0.2, 0.4, 0.1, 9.0])
    maps[0, :, 2] = torch.tensor([0.0, 0.0, 1.0, 2.0, 1.0, 9.0])
    assert pointing_game(maps, LABELS).item() == 0.5  # class 0 points at patch 3
    mass = ((0.2 + 0.0 + 0.1) / 0.6 + 3 / 4) / 2
    assert relevance_mass(maps, LABELS).item() == pytest.approx(mass)
    # class 0: of patches 3, 0, 2 two are its own; class 2: of 3 and 2 (before its equal, 4) one
    assert rank_accuracy(maps, LABELS).item() == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_area_equals_scikit_learn_and_the_control_takes_the_next_name() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 4, (2, 30), generator=generator)
    maps = torch.randn(2, 30, 4, generator=generator).mul(3).round()
    for shuffled in (False, True):
        scores = localisation_auc(maps, labels, shuffled)
        for window in range(2):
            valid = labels[window] >= 0
            names = labels[window][valid]
            present = names.unique().tolist()
            order = [*present[1:], present[0]] if shuffled else present
            areas = [
                roc_auc_score(names == c, maps[window][valid][:, m])
                for c, m in zip(present, order, strict=True)
            ]
            assert scores[window].item() == pytest.approx(sum(areas) / len(areas), rel=1e-6)


def test_windows_of_one_class_have_no_answer() -> None:
    labels = torch.tensor([[1, 1, -1], [-1, -1, -1], [0, 1, 1]])
    for function in ALL:
        assert function(torch.rand(3, 3, 2), labels).isnan().tolist() == [True, True, False]
