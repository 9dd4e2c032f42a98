"""Label measures against scikit-learn, closed forms and loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from sclip_lab.diagnostics.auc import auroc, average_precision
from sclip_lab.diagnostics.same_class import (
    inter_class_mass,
    inter_class_share,
    matched_auroc,
    matched_mass,
    relative_mass,
    same_class_ap,
    same_class_auroc,
    same_class_share,
)

VOID = -1


def pairs(scores: Tensor, labels: Tensor) -> tuple[list[float], list[bool]]:
    """The definition, by a loop over one window."""
    values, same = [], []
    for i, a in enumerate(labels.tolist()):
        for j, b in enumerate(labels.tolist()):
            if i != j and VOID not in (a, b):
                values.append(scores[i, j].item())
                same.append(a == b)
    return values, same


def drawn(batch: int = 3, count: int = 15) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(batch, count, count, generator=generator)
    labels = torch.randint(VOID, 3, (batch, count), generator=generator)
    return scores.mul(2).round().div(8), labels  # with ties


def test_equals_scikit_learn_on_pairs() -> None:
    scores, labels = drawn()
    roc, ap = same_class_auroc(scores, labels), same_class_ap(scores, labels)
    for window in range(3):
        values, same = pairs(scores[window], labels[window])
        assert roc[window].item() == pytest.approx(roc_auc_score(same, values), abs=1e-12)
        assert ap[window].item() == pytest.approx(average_precision_score(same, values), abs=1e-12)
        assert same_class_share(labels)[window].item() == pytest.approx(sum(same) / len(same))


@settings(deadline=None)  # the first call imports scikit-learn
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: len({positive for _, positive in rows}) == 2
    )
)
def test_curves_equal_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([float(score) for score, _ in rows])
    positive = torch.tensor([answer for _, answer in rows])
    assert auroc(scores, positive).item() == pytest.approx(roc_auc_score(positive, scores))
    expected = average_precision_score(positive, scores)
    assert average_precision(scores, positive).item() == pytest.approx(expected)


def test_perfect_inverted_and_uninformed() -> None:
    labels = torch.tensor([[0, 0, 1, 1, VOID]])
    same = (labels[:, :, None] == labels[:, None]).float()
    assert same_class_auroc(same, labels).item() == 1
    assert same_class_ap(same, labels).item() == 1
    assert same_class_auroc(-same, labels).item() == 0
    assert same_class_auroc(0 * same, labels).item() == 0.5
    assert same_class_ap(0 * same, labels).item() == pytest.approx(1 / 3)


def test_void_changes_nothing() -> None:
    scores, labels = drawn(1)
    keep = (labels[0] != VOID).nonzero()[:, 0]
    inside, without = scores[:, keep][:, :, keep], labels[:, keep]
    for function in (same_class_auroc, same_class_ap):
        torch.testing.assert_close(function(scores, labels), function(inside, without))
    weights = scores.softmax(-1)
    among = weights[:, keep][:, :, keep]
    torch.testing.assert_close(inter_class_mass(weights, labels), inter_class_mass(among, without))


@pytest.mark.parametrize("row", [[0, 0, 0], [VOID] * 3, [VOID, 2, 2], [1, VOID, VOID]], ids=str)
def test_a_single_class_has_no_answer(row: list[int]) -> None:
    labels, scores = torch.tensor([row, [0, 0, 1]]), torch.rand(2, 3, 3)
    for value in (
        same_class_auroc(scores, labels),
        same_class_ap(scores, labels),
        same_class_share(labels),
        inter_class_mass(scores, labels),
        inter_class_share(labels),
    ):
        assert value.isnan().tolist() == [True, False]


def test_no_two_patches_of_a_class() -> None:
    labels = torch.tensor([[0, 1, 2]])
    assert same_class_auroc(torch.rand(1, 3, 3), labels).isnan().all()
    assert same_class_ap(torch.rand(1, 3, 3), labels).isnan().all()
    # Attention may still leave its class, and uniform attention does by two thirds.
    assert inter_class_share(labels).item() == pytest.approx(2 / 3)


def test_inter_class_mass_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1, VOID]])
    weights = torch.tensor([[
        [0.5, 0.1, 0.2, 0.2],  # 0.2 of 0.8
        [0.0, 1.0, 0.0, 0.0],  # 0
        [0.3, 0.3, 0.2, 0.2],  # 0.6 of 0.8
        [1.0, 0.0, 0.0, 0.0],  # void does not ask
    ]])  # fmt: skip
    expected = (0.25 + 0 + 0.75) / 3
    assert inter_class_mass(weights, labels).item() == pytest.approx(expected)
    # Two patches see one of three elsewhere, one sees two of three.
    assert inter_class_share(labels).item() == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)
    blind = weights.clone()
    blind[0, 0] = torch.tensor([0.0, 0, 0, 1])  # attends to void alone: does not count
    assert inter_class_mass(blind, labels).item() == pytest.approx((0 + 0.75) / 2)


GRID = (3, 5)


def distance(i: int, j: int) -> int:
    return (i // 5 - j // 5) ** 2 + (i % 5 - j % 5) ** 2


def test_relative_and_matched_mass_by_loops() -> None:
    scores, labels = drawn()
    weights = scores.exp()
    for window in range(3):
        names, mass, share, blind = labels[window].tolist(), 0.0, 0.0, 0.0
        labelled = [i for i in range(15) if names[i] != VOID]
        for i in labelled:
            others = [j for j in labelled if j != i]
            total = sum(weights[window, i, j].item() for j in others)
            away = [j for j in others if names[j] != names[i]]
            mass += sum(weights[window, i, j].item() for j in away) / total
            share += len(away) / len(others)
            for step in {distance(i, j) for j in others}:
                ring = [j for j in others if distance(i, j) == step]
                on_ring = sum(weights[window, i, j].item() for j in ring) / total
                blind += on_ring * sum(names[j] != names[i] for j in ring) / len(ring)
        relative = relative_mass(weights, labels)[window].item()
        assert relative == pytest.approx(mass / share, rel=1e-5)
        assert matched_mass(weights, labels, GRID)[window].item() == pytest.approx(
            mass / blind, rel=1e-5
        )


def test_matched_auroc_by_loops() -> None:
    scores, labels = drawn()
    for window in range(3):
        names, won, compared = labels[window].tolist(), 0.0, 0
        labelled = [i for i in range(15) if names[i] != VOID]
        for i in labelled:
            for j in labelled:
                for k in labelled:
                    if i in (j, k) or distance(i, j) != distance(i, k):
                        continue
                    if names[j] == names[i] and names[k] != names[i]:
                        a, b = scores[window, i, j].item(), scores[window, i, k].item()
                        won += (a > b) + (a == b) / 2
                        compared += 1
        value = matched_auroc(scores, labels, GRID)[window].item()
        assert value == pytest.approx(won / compared, abs=1e-12)


def test_matched_measures_tell_a_blind_map_from_one_that_looks() -> None:
    _, labels = drawn()
    steps = torch.tensor([[distance(i, j) for j in range(15)] for i in range(15)]).float()
    gaussian = torch.softmax(-steps / 0.5, -1).expand(3, -1, -1)
    torch.testing.assert_close(matched_mass(gaussian, labels, GRID), torch.ones(3))
    torch.testing.assert_close(
        matched_auroc(gaussian, labels, GRID), torch.full((3,), 0.5, dtype=torch.float64)
    )
    uniform = torch.full((3, 15, 15), 1 / 15)
    torch.testing.assert_close(relative_mass(uniform, labels), torch.ones(3))
    looks = (labels[:, :, None] == labels[:, None]).float()
    assert not relative_mass(looks, labels).any()
    assert not matched_mass(looks, labels, GRID).any()
    assert matched_auroc(looks, labels, GRID).eq(1).all()
    itself = torch.eye(15).expand(3, -1, -1)
    assert relative_mass(itself, labels).isnan().all()
    assert matched_mass(itself, labels, GRID).isnan().all()
    one = torch.zeros(3, 15, dtype=torch.long)
    assert relative_mass(uniform, one).isnan().all()
    assert matched_auroc(uniform, one, GRID).isnan().all()
