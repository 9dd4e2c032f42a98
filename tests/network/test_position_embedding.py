"""Position embeddings for other grids: official outputs per rule, and closed forms."""

from __future__ import annotations

import pytest
import torch

from sclip_lab.core.errors import LabError
from sclip_lab.network.position_embedding import RULES, interpolate
from tests import make_clip

OFFICIAL = {
    "sclip_family": "bicubic_offset",
    "bicubic_size": "bicubic",
    "bicubic_size_antialias": "bicubic_antialias",
    "bilinear_size": "bilinear",
}
TRAINED = (make_clip.GRID, make_clip.GRID)


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    weights = make_clip.make_state_dict(make_clip.SEEDS["public"]["weights"])
    return torch.from_numpy(weights["visual.positional_embedding"])


def test_offset_rule_keeps_the_table_for_as_many_patches(table: torch.Tensor) -> None:
    # 112 x 448 pixels: 7 x 28 patches are as many as 14 x 14, so the official code does nothing.
    assert torch.equal(interpolate(table, TRAINED, (7, 28), "bicubic_offset"), table)
    assert not torch.equal(interpolate(table, TRAINED, (7, 28), "bicubic"), table)


@pytest.mark.parametrize("rule", RULES)
def test_same_grid_changes_nothing(rule: str, table: torch.Tensor) -> None:
    assert interpolate(table, TRAINED, TRAINED, rule) is table


@pytest.mark.parametrize("rule", RULES)
def test_constant_stays_constant(rule: str) -> None:
    constant = torch.full((1 + 6, 2), 0.75)
    resized = interpolate(constant, (2, 3), (5, 4), rule)
    torch.testing.assert_close(resized, torch.full((21, 2), 0.75))


@pytest.mark.parametrize("rule", RULES)
def test_height_comes_before_width(rule: str) -> None:
    ramp = torch.arange(4.0)[:, None].expand(4, 3).reshape(-1, 1)  # changes along height only
    resized = interpolate(torch.cat([torch.zeros(1, 1), ramp]), (4, 3), (8, 5), rule)
    grid = resized[1:, 0].view(8, 5)
    torch.testing.assert_close(grid, grid[:, :1].expand(8, 5), atol=1e-5, rtol=0)
    assert (grid[1:, 0] - grid[:-1, 0] > -0.1).all()
    assert grid[-1, 0] - grid[0, 0] > 2.5


def test_half_rule_rounds_bilinear(table: torch.Tensor) -> None:
    exact = interpolate(table, TRAINED, (20, 11), "bilinear")
    rounded = interpolate(table, TRAINED, (20, 11), "bilinear_half")
    assert torch.equal(rounded[1:], exact[1:].half().float())


def test_keeps_precision() -> None:
    assert interpolate(torch.zeros(5, 3).bfloat16(), (2, 2), (3, 3)).dtype == torch.bfloat16


def test_bad_input(table: torch.Tensor) -> None:
    with pytest.raises(LabError, match="did you mean bilinear"):
        interpolate(table, TRAINED, (3, 3), "bilinaer")
    with pytest.raises(LabError, match="197 position embeddings"):
        interpolate(table, (7, 7), (3, 3))
