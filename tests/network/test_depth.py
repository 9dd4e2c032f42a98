"""Layer indices: tables by hand and properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sclip_lab import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.network.depth import Layer, resolve, resolve_all


@pytest.mark.parametrize(
    ("layer", "depth", "index"),
    [
        (0, 12, 0),
        (11, 12, 11),
        (-1, 12, 11),
        (-12, 12, 0),
        (0.75, 12, 8),
        ("9/12", 12, 8),  # the ninth block
        ("9/12", 24, 17),  # the eighteenth of 24
        ("3/12", 4, 0),
        ("1/12", 4, 0),  # rounds to 0, the first block at least
        (1.0, 12, 11),
        ("1", 12, 11),
    ],
)
def test_resolve(layer: Layer, depth: int, index: int) -> None:
    assert resolve(layer, depth) == index


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (12, "-12 .. 11 for 12 blocks"),
        (-13, "-12 .. 11"),
        (0.0, "a fraction of depth"),
        (1.5, "a fraction of depth"),
        ("13/12", "a fraction of depth"),
        ("late", "neither an index nor a fraction"),
        ("1/0", "neither an index nor a fraction"),
        (float("nan"), "neither an index nor a fraction"),
        (float("inf"), "neither an index nor a fraction"),
        (None, "neither an index nor a fraction"),
    ],
)
def test_resolve_refuses(layer: Layer, says: str) -> None:
    with pytest.raises(LabError, match=says):
        resolve(layer, 12)


@given(depth=st.integers(1, 48), data=st.data())
def test_fraction_names_the_block_that_ends_there(depth: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, depth - 1))
    assert resolve(f"{index + 1}/{depth}", depth) == index
    assert resolve(index - depth, depth) == index
    assert resolve(f"{index + 1}/{depth}", 2 * depth) == 2 * (index + 1) - 1


@pytest.mark.parametrize(
    ("layers", "indices"),
    [
        ([-1], [11]),
        (-1, [11]),
        ([3, -1, 11, "4/12"], [3, 11]),
        ("last 3", [9, 10, 11]),
        ("last 6/12", [6, 7, 8, 9, 10, 11]),
        ("last 12", list(range(12))),
        ("9/12", [8]),
    ],
)
def test_resolve_all(layers: object, indices: list[int]) -> None:
    assert resolve_all(layers, 12) == indices  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([], "layers is empty"),
        ("last 0", "1 .. 12"),
        ("last 13", "1 .. 12"),
        ("last", "neither an index nor a fraction"),
        ([0, 12], "out of range"),
    ],
)
def test_resolve_all_refuses(layers: object, says: str) -> None:
    with pytest.raises(LabError, match=says):
        resolve_all(layers, 12)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [np.int64(1), np.int32(-11), torch.tensor(1)])
def test_numbers_of_numpy_and_torch_are_indices(layer: Any) -> None:
    assert resolve(layer, 12) == 1


@pytest.mark.parametrize("layers", [np.int64(1), np.arange(2), [np.int64(0)], {0: 1}])
def test_layers_of_a_variant_are_plain(layers: Any) -> None:
    with pytest.raises(LabError, match=r"attention 'csa': layers: .* must be"):
        load_attention("csa", layers=layers)
    assert load_attention("csa", layers=range(2)).layers(12) == [0, 1]
