"""Feature measures against numpy, closed forms and invariances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.diagnostics.features import (
    class_similarity,
    feature_invariance,
    linear_cka,
    outlier_fraction,
    residual_ratio,
)
from sclip_lab.diagnostics.shift import compare, moved

PATCH = 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_class_similarity() -> None:
    features, whole = drawn(2, 9, 5), drawn(2, 5)
    unit = F.normalize(features, dim=-1) @ F.normalize(whole, dim=-1)[..., None]
    torch.testing.assert_close(class_similarity(features, whole), unit.mean((1, 2)))
    copies = whole[:, None].expand(2, 9, 5)
    torch.testing.assert_close(class_similarity(copies, whole), torch.ones(2))


def test_feature_invariance() -> None:
    features = drawn(1, 7, 5)
    unit = F.normalize(features[0], dim=-1)
    cosines = unit @ unit.T
    expected = cosines[~torch.eye(7, dtype=torch.bool)].mean()
    torch.testing.assert_close(feature_invariance(features)[0], expected, atol=1e-6, rtol=0)
    assert feature_invariance(torch.eye(4)[None]).item() == pytest.approx(0, abs=1e-6)
    assert feature_invariance(torch.ones(1, 4, 3)).item() == pytest.approx(1)


def test_outlier_fraction_by_numpy() -> None:
    features = drawn(2, 40, 6)
    features[:, :3] *= 20
    norms = np.linalg.norm(features.numpy(), axis=-1)
    median = np.median(norms, axis=1, keepdims=True)
    limit = median + 3 * np.median(np.abs(norms - median), axis=1, keepdims=True)
    expected = (norms > limit).mean(1)
    torch.testing.assert_close(outlier_fraction(features).double(), torch.from_numpy(expected))
    assert outlier_fraction(torch.ones(1, 9, 2)).item() == 0
    one_of_ten = torch.ones(1, 10, 1)
    one_of_ten[0, 4] = 5.0
    assert outlier_fraction(one_of_ten).item() == pytest.approx(0.1)


def test_cka_equals_the_kernel_form() -> None:
    # The same quantity from centred Gram matrices of samples, in numpy.
    x, y = drawn(20, 5), drawn(20, 8)
    h = np.eye(20) - 1 / 20
    k, m = (h @ (z.double().numpy() @ z.double().numpy().T) @ h for z in (x, y))
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert linear_cka(x, y).item() == pytest.approx(expected)


def test_cka_invariances() -> None:
    x, y = drawn(2, 20, 5), drawn(2, 20, 8)
    rotation = torch.linalg.qr(drawn(5, 5)).Q
    torch.testing.assert_close(linear_cka(x, 3 * x @ rotation + 7), torch.ones(2).double())
    torch.testing.assert_close(linear_cka(x, y), linear_cka(y, x))
    assert (linear_cka(x, y) < 0.9).all()
    assert linear_cka(x, torch.ones(2, 20, 3)).isnan().all()


def test_residual_ratio() -> None:
    output = drawn(2, 6, 4)
    torch.testing.assert_close(residual_ratio(-3 * output, output), torch.full((2,), 3.0))


def pixels(images: Tensor) -> Tensor:
    """A network that looks at each patch alone: exactly equivariant."""
    return F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1)


def shifted(forward: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    return compare(forward(images), forward(moved(images, PATCH)))


def test_shift_of_an_equivariant_network() -> None:
    same, random = shifted(pixels, drawn(2, 3, 20, 28))
    torch.testing.assert_close(same, torch.ones(2))
    assert (random.abs() < 0.5).all()


def test_shift_of_a_network_of_positions() -> None:
    places = drawn(5, 7, 16)
    photos = torch.zeros(1, 3, 20, 28)
    same, _ = shifted(lambda images: places.expand(len(images), 5, 7, 16), photos)
    assert same.abs() < 0.3


def test_shift_of_one_row_of_patches_is_undefined() -> None:
    same, random = shifted(pixels, drawn(2, 3, PATCH, 28))
    assert same.isnan().all()
    assert random.isnan().all()
