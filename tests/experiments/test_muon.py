"""Our Muon against torch's, and its orthogonal matrices against the SVD's."""

from __future__ import annotations

import pytest
import torch

from experiments.patchwork.muon import Muon, orthogonal


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_steps_are_torchs_up_to_its_bfloat16(shape: tuple[int, int]) -> None:
    """Oracle: torch.optim.Muon; bfloat16 keeps 8 bits, so steps agree to a percent or two."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = {"lr": 0.02, "weight_decay": 0.05}
    pair = [(ours, Muon([ours], **settings)), (theirs, torch.optim.Muon([theirs], **settings))]
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        for matrix, optimizer in pair:
            matrix.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.02 * moved


@pytest.mark.parametrize("shape", [(40, 40), (60, 20), (20, 60)])
def test_orthogonal_keeps_singular_vectors(shape: tuple[int, int]) -> None:
    """Oracle: the quintic, applied to the singular values of a float64 SVD."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    s = values / values.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(orthogonal(matrix), left @ torch.diag(s) @ right)
    s = s[values > 0.01 * values.norm()]
    assert s.min() > 0.68
    assert s.max() < 1.16


def test_zeros_stay_zeros() -> None:
    assert not orthogonal(torch.zeros(3, 5)).any()
