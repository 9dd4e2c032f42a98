"""The largest query of each pixel against torch's own, ties and extremes included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sclip_lab.segmentation.decoder import winner


def check(logits: Tensor) -> None:
    largest, index, below = winner(logits.clone(), torch.empty_like(logits))
    expected, first = logits.max(dim=0)
    assert torch.equal(largest, expected)
    assert torch.equal(index.long(), first)
    assert torch.equal(below, logits - expected)


@pytest.mark.parametrize("queries", [1, 2, 113, 300])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1e4])
def test_equals_torch(queries: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(queries)
    check(torch.randn(queries, 5, 37, generator=generator) * scale)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.25000003, 1.0]), min_size=4, max_size=4),
        min_size=1,
        max_size=9,
    )
)
def test_the_first_of_equal_ones_and_neighbouring_floats(rows: list[list[float]]) -> None:
    check(torch.tensor(rows).view(-1, 2, 2))


def test_scratch_may_be_larger() -> None:
    logits = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    expected = logits.argmax(dim=0)
    _, index, below = winner(logits, torch.full((4, 2, 5), 7.0))
    assert torch.equal(index.long(), expected)
    assert below.shape == logits.shape
