"""CLIPer's decision, pixel by pixel."""

from __future__ import annotations

import pytest
import torch

from sclip_lab.core.errors import LabError
from sclip_lab.segmentation.refinements.class_scores import class_scores


def test_against_the_rule_pixel_by_pixel() -> None:
    maps = torch.rand(6, 7, 9, generator=torch.Generator().manual_seed(0)) ** 2
    maps[:2] = 0  # background only competes
    maps[3] *= 0.6  # a class that reaches the threshold nowhere
    result = class_scores(maps, background=2, class_threshold=0.7, pixel_threshold=0.4)
    labels = result.argmax(dim=0)
    observed = set()
    for row in range(7):
        for column in range(9):
            best, label = 0.0, 0
            for query in range(2, 6):
                score = float(maps[query].max())
                value = score * float(maps[query, row, column]) / (score + 1e-5)
                if score > 0.7 and value >= 0.4 and value > best:
                    best, label = value, query
            assert int(labels[row, column]) == label
            observed.add(label)
    assert observed == {0, 2, 4, 5}


@pytest.mark.parametrize("background", [0, 3])
def test_background_is_some_of_the_queries(background: int) -> None:
    with pytest.raises(LabError, match="of the queries"):
        class_scores(torch.rand(3, 4, 4), background=background)
