"""Patch retrieval against a loop over patches, and what it says in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sclip_lab.diagnostics.retrieval import patch_retrieval, some


def brute_force(
    features: list[Tensor], labels: list[Tensor], neighbours: int, temperature: float
) -> list[float]:
    """The same, patch by patch, in float64."""
    scores = []
    for photo, (queries, truth) in enumerate(zip(features, labels, strict=True)):
        guesses = {}
        for place, (x, label) in enumerate(zip(queries.double(), truth.tolist(), strict=True)):
            if label == -1:
                continue
            similar = []
            for other, (keys, names) in enumerate(zip(features, labels, strict=True)):
                for y, name in zip(keys.double(), names.tolist(), strict=True):
                    if other != photo and name != -1:
                        similar.append((float(x @ y / (x.norm() * y.norm())), name))
            votes: dict[int, float] = {}
            for cosine, name in sorted(similar, reverse=True)[:neighbours]:
                votes[name] = votes.get(name, 0.0) + math.exp(cosine / temperature)
            guesses[place] = max(votes, key=lambda name: votes[name])
        ious = []
        for name in {truth.tolist()[place] for place in guesses}:
            of_class = {p for p in guesses if truth.tolist()[p] == name}
            guessed = {p for p in guesses if guesses[p] == name}
            ious.append(len(of_class & guessed) / len(of_class | guessed))
        scores.append(float(np.mean(ious)))
    return scores


@pytest.mark.parametrize("neighbours", [1, 5, 1000])
def test_equals_a_loop_over_patches(neighbours: int) -> None:
    draw = torch.Generator().manual_seed(neighbours)
    features = [torch.randn(n, 6, generator=draw) for n in (7, 12, 9, 5)]
    labels = [torch.randint(-1, 4, (len(f),), generator=draw) for f in features]
    retrieved = patch_retrieval(features, labels, neighbours, 0.1)
    assert retrieved == pytest.approx(brute_force(features, labels, neighbours, 0.1))


def test_classes_that_lie_apart_are_found_and_mixed_ones_are_not() -> None:
    axes = torch.eye(3)
    labels = [torch.tensor([0, 0, 1, 2]), torch.tensor([2, 1, 0, 0])]
    assert patch_retrieval([axes[names] for names in labels], labels, 2) == [1.0, 1.0]
    moved = [axes[labels[0]], axes[(labels[1] + 1) % 3]]
    assert patch_retrieval(moved, labels, 1) == [0.0, 0.0]


def test_nobody_to_ask_is_nan() -> None:
    alone = patch_retrieval([torch.rand(4, 2)], [torch.zeros(4, dtype=torch.long)])
    void = patch_retrieval([torch.rand(4, 2)] * 2, [torch.full((4,), -1)] * 2)
    assert all(math.isnan(value) for value in (*alone, *void))


def test_some_patches_in_equal_steps() -> None:
    assert some(5, 9).tolist() == [0, 1, 2, 3, 4]
    some_labels = some(1000, 11)
    assert (np.diff(some_labels) > 0).all()
    assert (some_labels[0], some_labels[-1], len(some_labels)) == (0, 999, 11)
