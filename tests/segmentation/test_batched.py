"""All photos of a batch at once: the labels and counts that one photo after the other has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation import loop
from sclip_lab.evaluation.observers import Pictures
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.table import metrics
from sclip_lab.segmentation import batched, windows
from sclip_lab.segmentation.decoder import Readout
from sclip_lab.segmentation.protocol import Protocol

CLASSES = torch.tensor([0, 1, 1, 2, 3, 3, 3])  # synonyms
SIZES = [((96, 128), (90, 120)), ((128, 96), (100, 75)), ((64, 160), (64, 160))]
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "threshold": {"prob_threshold": 0.3, "logit_scale": 4.0},
    "area": {"area_threshold": 0.2},
    "both": {"prob_threshold": 0.3, "logit_scale": 4.0, "area_threshold": 0.2, "background": 2},
}


def prepared() -> tuple[list[windows.Plan], torch.Tensor, list[int]]:
    plans = [windows.plan(resized, target, 64, 32, 16) for resized, target in SIZES]
    counts = [plan.num_windows for plan in plans]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(sum(counts), 4, 4, len(CLASSES), generator=generator)
    return plans, logits, [0, counts[0], counts[0] + counts[1]]


def test_stitching_equals_each_plans_own() -> None:
    plans, logits, starts = prepared()
    geometry = batched.Geometry(plans, starts, torch.device("cpu"))
    result = geometry.stitch(logits, slice(0, 3))
    for one, plan, start in zip(result, plans, starts, strict=True):
        alone = plan.stitch(plan.lay_out(logits[start : start + plan.num_windows]))
        height, width = plan.target
        inside = one[:height, :width].permute(2, 0, 1)
        torch.testing.assert_close(inside, alone, rtol=0, atol=2e-6)
        assert one[height:].abs().sum() == one[:, width:].abs().sum() == 0


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("largest", [1 << 28, 1])
def test_labels_and_counts(change: str, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal but for ties; ``largest`` of one value takes one photo at a time."""
    monkeypatch.setattr(batched, "LARGEST", largest)
    plans, logits, starts = prepared()
    text = torch.nn.functional.normalize(torch.randn(len(CLASSES), 5), dim=-1)
    readout = Readout(Protocol(**CHANGES[change]), text, CLASSES)
    geometry = batched.Geometry(plans, starts, torch.device("cpu"))
    generator = np.random.default_rng(0)
    masks = [generator.integers(0, 4, plan.target).astype(np.uint8) for plan in plans]
    for mask in masks:
        mask[:3] = 255
    on_device = batched.masks_of(masks, geometry.size, 4, 255).long()
    labels, counts = batched.label_and_count(readout, geometry, logits, on_device)
    for number, plan in enumerate(plans):
        part = logits[starts[number] : starts[number] + plan.num_windows]
        alone = readout.predict(plan, plan.lay_out(part))
        assert (alone == labels[number]).float().mean() > 0.9998
        expected = metrics.count(labels[number], masks[number], 4)
        result = metrics.of_matrix(counts[number, :-1].numpy())
        for a, b in zip(result, expected, strict=True):
            assert np.array_equal(a, b)
        # What is void, and what is beyond the photo, is in the last row.
        assert counts[number].sum() == geometry.size[0] * geometry.size[1]


@pytest.mark.parametrize("change", CHANGES)
def test_the_evaluation_counts_the_same(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    changed = replace(protocol, **CHANGES[change])
    specs = [
        lab.Spec(lab.load_attention(name), backbone, changed, photos) for name in ("csa", "gem")
    ]

    def rows(store: str) -> pd.DataFrame:
        df = lab.evaluate(
            specs, tmp_path / store, batch_images=3, observers=[Pictures(2, 1)], progress=False
        )
        columns = ["attention", "image", "true", "predicted", "pixels"]
        keys = columns[:-1]
        return df[columns].astype({"attention": str, "image": str}).set_index(keys)["pixels"]

    one_by_one = rows("cpu")
    monkeypatch.setattr(loop, "BATCHED_ON", ("cpu",))
    together = rows("batched")
    assert together.sum() == one_by_one.sum()
    difference = together.sub(one_by_one, fill_value=0).abs().sum()
    assert difference <= 2e-4 * one_by_one.sum()


def test_a_mask_that_does_not_fit_stops_only_its_photo(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "BATCHED_ON", ("cpu",))
    spec = lab.Spec(lab.load_attention("csa"), backbone, protocol, photos)
    original = Folder.__getitem__

    def broken(self: Folder, index: int) -> Any:
        sample = original(self, index)
        return sample if index != 1 else replace(sample, mask=np.full_like(sample.mask, 77))

    monkeypatch.setattr(Folder, "__getitem__", broken)
    df = lab.evaluate([spec], tmp_path, batch_images=3, on_error="skip", progress=False)
    assert set(df["image"].astype(str)) == {"0", "2"}
    assert "77" in str(df.attrs["skipped"])


def test_logits_that_are_not_finite_are_said(
    backbone: Backbone,
    photos: Folder,
    protocol: Protocol,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "BATCHED_ON", ("cpu",))

    def undefined(ctx: Any) -> torch.Tensor:
        return ctx.attention() * torch.nan

    spec = lab.Spec(lab.variant(undefined), backbone, protocol, photos)
    with pytest.raises(LabError, match="NaN or infinity"):
        lab.evaluate([spec], tmp_path, batch_images=3, progress=False)
