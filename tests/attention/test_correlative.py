"""Correlative self-attention: closed forms and limits."""

from __future__ import annotations

import pytest
import torch

from sclip_lab.attention.correlative import combined, correlative
from sclip_lab.attention.vanilla import vanilla
from sclip_lab.core.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context

GRID = (3, 4)
TOKENS = 13
ALL = ("query", "key", "value", "identity")


@pytest.fixture
def ctx(backbone: Backbone) -> Context:
    tokens = torch.randn(2, TOKENS, 64, generator=torch.Generator().manual_seed(0))
    return Context(BlockInput(backbone.blocks[-1], tokens), (), GRID)


def test_default_is_the_sum_of_q_and_k(ctx: Context) -> None:
    q, k = ctx.query.double(), ctx.key.double()
    expected = (q @ q.mT / 4).softmax(-1) + (k @ k.mT / 4).softmax(-1)  # head_dim 16
    torch.testing.assert_close(correlative(ctx).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("projections", [ALL[:1], ALL[:2], ALL[:3], ALL], ids=len)
def test_rows_sum_to_the_number_of_projections(ctx: Context, projections: tuple[str]) -> None:
    rows = correlative(ctx, projections).sum(-1)
    torch.testing.assert_close(rows, torch.full_like(rows, len(projections)))


def test_mean_is_sum_over_count(ctx: Context) -> None:
    total, mean = correlative(ctx, ALL, "sum"), correlative(ctx, ALL, "mean")
    torch.testing.assert_close(mean, total / 4)
    assert torch.equal(correlative(ctx, ["key"], "mean"), correlative(ctx, ["key"], "sum"))


def test_scores_are_symmetric(ctx: Context) -> None:
    for name in ALL:
        r = ctx.input.projected(name)
        raw = ctx.scores(r, r)
        torch.testing.assert_close(raw, raw.mT, atol=1e-5, rtol=0)


def test_identity_projection_is_the_input_in_heads(ctx: Context) -> None:
    x = ctx.input.normed.view(2, TOKENS, 4, 16).transpose(1, 2)
    expected = (x @ x.mT / 4).softmax(-1)
    torch.testing.assert_close(correlative(ctx, ["identity"]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("which", ["csa", "vanilla"])
def test_temperature_limits(ctx: Context, which: str) -> None:
    def weights(temperature: float) -> torch.Tensor:
        if which == "vanilla":
            return vanilla(ctx, temperature)
        return correlative(ctx, ["key"], temperature=temperature)

    b = ctx.key
    a = ctx.query if which == "vanilla" else b
    one_hot = torch.nn.functional.one_hot((a @ b.mT).argmax(-1), TOKENS).float()
    torch.testing.assert_close(weights(1e-6), one_hot, atol=1e-3, rtol=0)
    uniform = torch.full_like(one_hot, 1 / TOKENS)
    torch.testing.assert_close(weights(1e6), uniform, atol=1e-5, rtol=0)


def test_temperature_multiplies_the_root(ctx: Context) -> None:
    expected = (ctx.key @ ctx.key.mT / (0.5 * 4)).softmax(-1)
    sharp = correlative(ctx, ["key"], temperature=0.5)
    torch.testing.assert_close(sharp, expected, atol=1e-6, rtol=0)


def test_class_token_out_of_the_softmax(ctx: Context) -> None:
    closed = Context(ctx.input, (), GRID, class_token=False)
    weights = vanilla(closed)
    raw = ctx.scores(ctx.query, ctx.key)
    assert (weights[..., 1:, 0] == 0).all()
    torch.testing.assert_close(weights[..., 1:, 1:], raw[..., 1:, 1:].softmax(-1))
    torch.testing.assert_close(weights[..., 0, :], raw[..., 0, :].softmax(-1))


def test_bad_input(ctx: Context) -> None:
    with pytest.raises(LabError, match="projections is empty"):
        correlative(ctx, [])
    with pytest.raises(LabError, match="did you mean query"):
        correlative(ctx, ["qeury"])
    with pytest.raises(LabError, match="did you mean mean"):
        correlative(ctx, combine="maen")
    with pytest.raises(LabError, match="temperature 0"):
        correlative(ctx, temperature=0)
    with pytest.raises(LabError, match="temperature -1"):
        vanilla(ctx, temperature=-1)
    with pytest.raises(LabError, match="combine"):
        combined([torch.zeros(1)], "max")  # type: ignore[arg-type]
