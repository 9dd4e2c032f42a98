"""RF-CLIP's refocusing where official outputs say nothing: a row whose patches are all sinks."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from sclip_lab.attention.rfclip import refocused
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.readouts.rfclip import rfclip as readout


def test_a_row_of_sinks_alone_stays() -> None:
    weights = torch.softmax(torch.randn(2, 3, 4, 4), -1)
    assert torch.equal(refocused(weights, threshold=1e-6, share=0.6, prefix=1), weights)


def test_rows_keep_their_sum_and_sinks_their_share() -> None:
    """Patch 0 takes almost all: it is the sink."""
    weights = torch.tensor([[0.1, 0.7, 0.15, 0.05]]).repeat(4, 1)[None, None]
    result = refocused(weights, threshold=0.4, share=0.6, prefix=1)
    torch.testing.assert_close(result.sum(-1), weights.sum(-1))
    torch.testing.assert_close(result[0, 0, 1:, 1], 0.6 * weights[0, 0, 1:, 1])
    torch.testing.assert_close(result[0, 0, 1:, 2], 0.15 + 0.28 * 0.75 * torch.ones(3))


@pytest.mark.parametrize("share", ["class_share", "text_share"])
def test_shares_of_the_readout_are_between_0_and_1(share: str) -> None:
    inputs: dict[str, Any] = {share: 2}
    with pytest.raises(LabError, match=f"{share} 2 must be at least 0 and at most 1"):
        readout(cast(Any, None), torch.ones(2, 4), **inputs)
