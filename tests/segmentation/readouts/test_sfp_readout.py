"""SFP's undefined windows, against the official post-processing with NaN left in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.config.registry import load_attention
from sclip_lab.core.errors import LabError
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.protocol import Protocol
from sclip_lab.segmentation.readouts.cosine import unit
from sclip_lab.segmentation.readouts.sfp import undefined_first
from sclip_lab.segmentation.segment import segment
from tests import toy

CLASSES = torch.tensor([0, 0, 1, 2, 2])
READOUT = {"_target_": "sclip_lab.segmentation.readouts.sfp.undefined_first"}
ISOLATED = {
    "_target_": "sclip_lab.attention.repair.class_attention",
    "factor": 1e9,  # every patch is an outlier, so none has a clean neighbour
    "count": None,
}


def official(logits: Tensor, plan: windows.Plan, protocol: Protocol) -> Tensor:
    """Sum of windows, resize, softmax, classes, area, argmax, threshold; NaN spreads by itself."""
    total = torch.zeros(logits.shape[-1], *plan.resized)
    for (y, x), window in zip(plan.corners, logits, strict=True):
        size = min(plan.rows.crop, plan.resized[0]), min(plan.columns.crop, plan.resized[1])
        raised = F.interpolate(window.permute(2, 0, 1)[None], size=size, mode="bilinear")[0]
        place = total[:, y : y + size[0], x : x + size[1]]
        place += raised
    count = torch.zeros(plan.resized)
    for y, x in plan.corners:
        count[y : y + plan.rows.crop, x : x + plan.columns.crop] += 1
    whole = F.interpolate((total / count)[None], size=plan.target, mode="bilinear")[0]
    probability = (whole * protocol.logit_scale).softmax(dim=0)
    one_hot = F.one_hot(CLASSES).T[:, :, None, None]
    per_class = (probability[None] * one_hot).amax(dim=1)
    if protocol.area_threshold:
        area = F.one_hot(per_class.argmax(0), len(one_hot))[..., 1:].sum((0, 1))
        per_class[1:] *= (area > protocol.area_threshold * area.sum())[:, None, None]
    best, labels = per_class.max(dim=0)
    return torch.where(best < protocol.prob_threshold, 0, labels)


@pytest.mark.parametrize(
    "fields", [{}, {"prob_threshold": 0.4}, {"prob_threshold": 0.3, "area_threshold": 0.3}]
)
@pytest.mark.parametrize("undefined", [[0], [3, 4]])
def test_official_labels_with_nan(fields: dict[str, float], undefined: list[int]) -> None:
    plan = windows.plan((96, 131), (75, 101), 64, 32, 16)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(plan.num_windows, *plan.grid, 12, generator=generator)
    text = unit(torch.randn(len(CLASSES), 12, generator=generator))
    patches[undefined] = torch.nan
    protocol = Protocol(readout=READOUT, logit_scale=5.0, **fields)
    readout = Readout(protocol, text, CLASSES)
    state = SimpleNamespace(tokens=patches, grid=plan.grid)
    encoded: Any = SimpleNamespace(patches=patches, state=state)
    ours = readout.predict(plan, plan.lay_out(readout.patch_logits(encoded)))
    expected = official(unit(patches) @ text.T, plan, protocol)
    assert len(expected.unique()) > 1
    assert (ours != expected).sum() == 0


def test_a_window_with_some_nan_keeps_them() -> None:
    patches = torch.ones(2, 2, 2, 3)
    patches[0, 0, 0] = torch.nan
    logits = undefined_first(SimpleNamespace(patches=patches), torch.eye(3))  # type: ignore[arg-type]
    assert logits[0].isnan().any()
    torch.testing.assert_close(logits[1], torch.full((2, 2, 3), 3**-0.5))


def test_isolated_outliers_from_photo_to_labels() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    backbone, names = toy.network(), ["sky", "grass"]
    protocol = Protocol(short_side=None, crop_size=64, stride=16, templates=("{}",))
    official_repair = load_attention("sfp", repair={**ISOLATED, "isolated": "undefined"})
    with pytest.raises(LabError, match="NaN"):
        segment(backbone, photo, names, official_repair, protocol)
    first = Protocol(short_side=None, crop_size=64, stride=16, templates=("{}",), readout=READOUT)
    assert (segment(backbone, photo, names, official_repair, first) == 0).all()
    finite = load_attention("sfp", repair={**ISOLATED, "isolated": "zero"})
    assert np.array_equal(
        segment(backbone, photo, names, finite, protocol),
        segment(backbone, photo, names, finite, first),
    )
