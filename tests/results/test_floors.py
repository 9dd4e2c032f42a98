"""Floors by hand: images of known counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sclip_lab import results
from sclip_lab.results.statistics import floors
from tests.synthetic_store import confusion_rows, write_spec


def test_floors_equal_a_computation_by_hand(tmp_path: Path) -> None:
    """Two photos, three of four classes: (60, 30, 10, 0) and (0, 30, 70, 0) of 100 pixels."""
    masks = [np.repeat([0, 1, 2], [60, 30, 10]), np.repeat([1, 2], [30, 70])]
    rows = [
        confusion_rows(f"p{k}", np.zeros(100, np.uint8)[None], mask[None])
        for k, mask in enumerate(masks)
    ]
    write_spec(tmp_path, "csa", rows, ["p0", "p1"], class_names=["a", "b", "c", "d"])
    table = results.floors(results.load(tmp_path)).set_index("floor")["score"]
    # Class 2 has 80 of 200 pixels: IoU 80 / 200, and three classes occur.
    assert table[floors.CONSTANT] == pytest.approx((80 / 200) / 3)
    # Photo 0 is called 0, photo 1 is called 2: 60 / 100, 0 / 60, 70 / 110.
    assert table[floors.MAJORITY] == pytest.approx((60 / 100 + 0 + 70 / 110) / 3)
    # A quarter of each class is right; each class is predicted on 50 of 200 pixels, the fourth too.
    expected = [t / 4 / (t + 50 - t / 4) for t in (60, 60, 80, 0)]
    assert table[floors.RANDOM] == pytest.approx(np.mean(expected))


def test_random_labels_and_a_constant_class_score_their_floors(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    masks = draw.integers(0, 5, (40, 60, 60)).astype(np.uint8)
    images = [f"p{k}" for k in range(len(masks))]
    predictions = {"random": draw.integers(0, 5, masks.shape), "constant": np.zeros_like(masks)}
    for name, predicted in predictions.items():
        rows = [
            confusion_rows(image, one.astype(np.uint8), mask)
            for image, one, mask in zip(images, predicted, masks, strict=True)
        ]
        write_spec(tmp_path, name, rows, images)
    df = results.load(tmp_path)
    table = results.floors(df).set_index("floor")["score"]
    scores = results.miou(df, ["attention", "spec"]).droplevel("spec")
    assert scores["random"] == pytest.approx(table[floors.RANDOM], abs=0.002)
    assert scores["constant"] == pytest.approx(table[floors.CONSTANT], abs=0.002)
