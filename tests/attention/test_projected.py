"""Random and learned projections: properties of the draw, closed forms, and bad files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sclip_lab.attention import projected
from sclip_lab.attention.correlative import correlative
from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context


@pytest.fixture
def ctx(backbone: Backbone) -> Context:
    tokens = torch.randn(2, 13, 64, generator=torch.Generator().manual_seed(0))
    return Context(BlockInput(backbone.blocks[-1], tokens), (), (3, 4))


def test_orthogonal_matrix_is_orthogonal() -> None:
    q = projected._matrix(64, "orthogonal", 3).double()
    torch.testing.assert_close(q @ q.T, torch.eye(64, dtype=torch.float64), atol=1e-6, rtol=0)


def test_gaussian_matrix_has_unit_columns_on_average() -> None:
    norms = projected._matrix(256, "gaussian", 3).norm(dim=0)
    assert norms.mean().item() == pytest.approx(1.0, abs=0.02)


def test_orthogonal_full_width_is_the_identity_projection(ctx: Context) -> None:
    # (x Q)(x Q)^T = x x^T, so at full width an orthogonal matrix changes nothing.
    weights = projected.random(ctx, "orthogonal", seed=7, per_head=False)
    x = ctx.input.normed
    expected = (x @ x.mT / 8).softmax(-1)  # width 64
    assert weights.shape == (2, 4, 13, 13)
    torch.testing.assert_close(weights, expected[:, None].expand_as(weights), atol=1e-5, rtol=0)


def test_per_head_by_hand(ctx: Context) -> None:
    seed_of_draw = (5 * 1009 + 3) * 1009 + 0
    x = ctx.input.normed @ projected._matrix(64, "gaussian", seed_of_draw)
    r = x.view(2, 13, 4, 16).transpose(1, 2)
    expected = (r @ r.mT / 4).softmax(-1)
    torch.testing.assert_close(projected.random(ctx, seed=5), expected, atol=1e-6, rtol=0)


def test_seed_decides(ctx: Context, backbone: Backbone) -> None:
    assert torch.equal(projected.random(ctx, seed=1), projected.random(ctx, seed=1))
    assert not torch.equal(projected.random(ctx, seed=1), projected.random(ctx, seed=2))
    elsewhere = Context(BlockInput(backbone.blocks[0], ctx.tokens), (), (3, 4))
    same_norm = Context(BlockInput(backbone.blocks[0], ctx.tokens), (), (3, 4))
    assert torch.equal(projected.random(elsewhere), projected.random(same_norm))
    assert not torch.equal(projected.random(ctx), projected.random(elsewhere))


def test_draw_leaves_the_global_generator_alone(ctx: Context) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    projected.random(ctx, seed=91, count=2)
    assert torch.equal(torch.rand(1), expected)


def test_ensemble(ctx: Context) -> None:
    mean = projected.random(ctx, seed=2, count=3)
    torch.testing.assert_close(mean.sum(-1), torch.ones(2, 4, 13))
    total = projected.random(ctx, seed=2, count=3, combine="sum")
    torch.testing.assert_close(total, 3 * mean)
    one = projected.random(ctx, seed=2, count=1)
    assert torch.equal(one, projected.random(ctx, seed=2, count=1, combine="sum"))
    # The first member of an ensemble is the single draw of its seed.
    two = projected.random(ctx, seed=2, count=2, combine="sum")
    rest = two - one
    torch.testing.assert_close(rest.sum(-1), torch.ones(2, 4, 13))


def test_learned_reads_its_file(ctx: Context, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"projection": torch.eye(64)}, path)
    # The identity matrix is CSA without a projection.
    expected = correlative(ctx, ["identity"])
    torch.testing.assert_close(projected.learned(ctx, str(path)), expected, atol=1e-6, rtol=0)
    full = projected.learned(ctx, str(path), per_head=False)
    orthogonal = projected.random(ctx, "orthogonal", per_head=False)
    torch.testing.assert_close(full, orthogonal, atol=1e-5, rtol=0)


def test_learned_refuses_bad_files(ctx: Context, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(LabError, match=r"w\.safetensors does not exist"):
        projected.learned(ctx, str(path))
    path.write_bytes(b"not a tensor file")
    with pytest.raises(LabError, match="is not a safetensors file"):
        projected.learned(ctx, str(path))
    save_file({"weight": torch.eye(64)}, path)
    with pytest.raises(LabError, match="no 'projection'"):
        projected.learned(ctx, str(path))
    save_file({"projection": torch.eye(32)}, path)
    with pytest.raises(LabError, match=r"needs \(64, 64\)"):
        projected.learned(ctx, str(path))


def test_bad_parameters(ctx: Context) -> None:
    with pytest.raises(LabError, match="did you mean orthogonal"):
        load_attention("csa_random", distribution="orthogonall")
    with pytest.raises(LabError, match="count 0"):
        projected.random(ctx, count=0)
    with pytest.raises(LabError, match="count 1010 must be at least 1 and at most 1009"):
        projected.random(ctx, count=1010)
    for seed in (-1, 2**63):  # they would be the seeds 2^63 - 1 and 0
        with pytest.raises(LabError, match=f"seed {seed} must be at least 0"):
            projected.random(ctx, seed=seed)
    with pytest.raises(LabError, match="temperature 0"):
        projected.random(ctx, temperature=0)
