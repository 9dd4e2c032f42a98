"""Oracles: torchmetrics, scikit-learn, closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torchmetrics.classification import MulticlassJaccardIndex

from sclip_lab.core.errors import LabError
from sclip_lab.results.table import metrics
from sclip_lab.results.table.scores import STATISTICS
from tests.confusion import confusion, counted, iou, score


def _images(seed: int, num_classes: int, shape: tuple[int, int] = (13, 17)):
    rng = np.random.default_rng(seed)
    prediction = rng.integers(num_classes, size=shape).astype(np.uint8)
    mask = rng.integers(num_classes, size=shape).astype(np.uint8)
    mask[rng.random(shape) < 0.2] = 255
    return prediction, mask


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 150))
def test_count_equals_sklearn(seed: int, num_classes: int) -> None:
    prediction, mask = _images(seed, num_classes)
    rows = metrics.count(prediction, mask, num_classes)
    valid = mask != 255
    expected = confusion_matrix(mask[valid], prediction[valid], labels=range(num_classes))
    np.testing.assert_array_equal(confusion(rows, num_classes), expected)
    assert (rows.pixels > 0).all()
    assert len({*zip(rows.true, rows.predicted, strict=True)}) == len(rows.pixels)


@pytest.mark.parametrize("num_classes", [2, 21, 133])
def test_iou_equals_torchmetrics_over_several_images(num_classes: int) -> None:
    total = np.zeros((num_classes, num_classes), np.int64)
    macro = MulticlassJaccardIndex(num_classes, average="macro", ignore_index=255)
    per_class = MulticlassJaccardIndex(num_classes, average="none", ignore_index=255)
    for seed in range(4):
        prediction, mask = _images(seed, num_classes, (11, 19))
        total += counted(prediction, mask, num_classes)
        both = torch.from_numpy(prediction).long(), torch.from_numpy(mask).long()
        macro.update(*both)
        per_class.update(*both)
    np.testing.assert_allclose(score(total), macro.compute().item(), rtol=1e-6)
    ours = iou(total)
    np.testing.assert_allclose(np.nan_to_num(ours), per_class.compute().numpy(), rtol=1e-6)


def test_closed_form_with_an_absent_and_an_invented_class() -> None:
    # class 0: 3 right of 4; class 1: 1 pixel, found, plus one of class 0; class 2 is predicted
    # nowhere true; class 3 is nowhere at all
    matrix = np.array([[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(iou(matrix), [3 / 4, 1 / 3, 0.0, np.nan])
    assert score(matrix) == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)
    assert score(matrix, "pixel_accuracy") == pytest.approx(4 / 6)
    assert score(matrix, "mean_accuracy") == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_sums_over_the_data_set_and_not_over_images() -> None:
    first, second = np.array([[1, 0], [0, 1]]), np.array([[8, 0], [2, 0]])
    assert score(first + second) == pytest.approx((9 / 11 + 1 / 3) / 2)
    assert score(first + second) != score(np.stack([first, second])).mean()


def test_a_stack_of_matrices_is_scored_one_by_one() -> None:
    stack = np.random.default_rng(0).integers(0, 9, (5, 4, 4))
    np.testing.assert_array_equal(iou(stack), [iou(matrix) for matrix in stack])
    for name in STATISTICS:
        np.testing.assert_array_equal(score(stack, name), [score(one, name) for one in stack])


def test_nothing_counted_is_nan_without_a_warning() -> None:
    rows = metrics.count(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), 3)
    matrix = confusion(rows, 3)
    assert matrix.sum() == 0
    for name in STATISTICS:
        assert np.isnan(score(matrix, name))


@pytest.mark.parametrize("ignore_index", [0, 3, 254, -1, -100])
def test_any_ignore_index(ignore_index: int) -> None:
    rng = np.random.default_rng(1)
    mask, prediction = rng.integers(0, 4, (6, 7)), rng.integers(0, 4, (6, 7))
    mask[0] = ignore_index
    rows = metrics.count(torch.from_numpy(prediction), mask, 4, ignore_index)
    valid = mask != ignore_index
    expected = confusion_matrix(mask[valid], prediction[valid], labels=range(4))
    np.testing.assert_array_equal(confusion(rows, 4), expected)


GOOD = np.zeros((2, 3), np.uint8)


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (GOOD, GOOD.T, r"\(2, 3\).*\(3, 2\)"),
        (GOOD[None], GOOD[None], "height, width"),
        (GOOD.astype(np.float32), GOOD, "integers"),
        (GOOD + 2, GOOD, "prediction holds id 2; expected 0..1"),
        (GOOD, GOOD + 7, "mask holds id 7; expected 0..1 .*or 255"),
        (GOOD.astype(int), GOOD.astype(int) - 1, "mask holds id -1"),
        (GOOD[:0], GOOD[:0], "no pixel"),
    ],
)
def test_wrong_input_is_named(prediction, mask, message: str) -> None:
    with pytest.raises(LabError, match=message):
        metrics.count(prediction, mask, 2)
