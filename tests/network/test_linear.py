from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclip_lab.network import linear
from sclip_lab.network.linear import Linear

packed_here = pytest.mark.skipif(
    not linear._AVAILABLE, reason="this torch has no oneDNN operations to be fused with"
)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


class QuickGELU(nn.Module):
    """An activation that oneDNN has no name for."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


@pytest.mark.parametrize("rows", [1, 13, 400])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    "activation", [None, nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), QuickGELU()]
)
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 0), (torch.bfloat16, 2e-2)]
)
def test_equals_float64(
    rows: int, with_bias: bool, activation: nn.Module | None, dtype: torch.dtype, atol: float
) -> None:
    x, weight = numbers(2, rows, 48, dtype=dtype), numbers(40, 48, dtype=dtype) / 7
    bias = numbers(40, dtype=dtype) if with_bias else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    if activation is not None:
        expected = activation(expected)
    with torch.inference_mode():
        result = Linear()(x, weight, bias, activation)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, atol=atol, rtol=atol)


@packed_here
@pytest.mark.skipif(
    "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="oneDNN fuses in bf16 from AVX512 on; here it rounds before the activation",
)
def test_activation_is_applied_before_rounding() -> None:
    x, weight = numbers(300, 64, dtype=torch.bfloat16), numbers(96, 64, dtype=torch.bfloat16) / 8
    once = F.silu(F.linear(x.float(), weight.float())).bfloat16()
    with torch.inference_mode():
        fused = Linear()(x, weight, None, nn.SiLU())
        twice = F.silu(F.linear(x, weight))
    assert (fused == once).float().mean() > 0.97
    assert (twice == once).float().mean() < 0.9


def test_rows_do_not_depend_on_company() -> None:
    layer, x, weight, bias = Linear(), numbers(6, 197, 64), numbers(80, 64), numbers(80)
    with torch.inference_mode():
        together = layer(x, weight, bias)
        for rows in (slice(0, 1), slice(2, 5)):
            assert torch.equal(layer(x[rows].clone(), weight, bias), together[rows])


def test_without_a_kept_copy_the_bits_are_the_same() -> None:
    kept, fresh = Linear(), Linear(keep=False)
    x, weight, bias = numbers(6, 197, 64), numbers(80, 64), numbers(80)
    with torch.inference_mode():
        for activation in (None, nn.GELU()):
            expected = kept(x, weight, bias, activation)
            assert torch.equal(fresh(x, weight, bias, activation), expected)
    assert kept._blocks.numel()
    assert not fresh._blocks.numel()


@pytest.mark.parametrize("how", ["in place", "another", "data"])
def test_a_changed_weight_is_seen(how: str) -> None:
    layer, x = Linear(), numbers(9, 16)
    weight = nn.Parameter(numbers(8, 16))
    with torch.no_grad():
        before = layer(x, weight, None)
        if how == "in place":
            weight.mul_(2)
        elif how == "data":
            weight.data = 2 * weight.data
        else:
            weight = nn.Parameter(2 * weight)
        torch.testing.assert_close(layer(x, weight, None), 2 * before)


def test_rows_and_columns_that_are_not_contiguous() -> None:
    x, weight = numbers(4, 16, 5).transpose(1, 2), numbers(16, 8).T
    with torch.no_grad():
        torch.testing.assert_close(Linear()(x, weight, None), F.linear(x, weight))


def test_gradients_pass() -> None:
    layer, x, weight = Linear(), numbers(3, 16).requires_grad_(), numbers(8, 16)
    with torch.no_grad():
        layer(x, weight, None)
    layer(x, weight, None, nn.SiLU()).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
