"""What is kept beside the counts: the right pixels, the right patch, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics, Pictures, attention_at, region_points
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store import picture_files
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.protocol import Protocol


@pytest.fixture
def spec(backbone: Backbone, photos: Folder, protocol: Protocol) -> Spec:
    return Spec(lab.load_attention("csa"), backbone, protocol, photos)


def test_points_are_in_the_middle_of_the_largest_regions() -> None:
    mask = np.full((40, 60), 255, np.uint8)
    mask[5:36, 5:36] = 3  # 31 x 31, middle at 20, 20
    mask[10:21, 45:56] = 1  # 11 x 11, middle at 15, 50
    mask[0, 0] = 2
    assert region_points(mask, 255, 2).tolist() == [[20, 20], [15, 50]]
    assert region_points(mask, 255, 9).tolist() == [[20, 20], [15, 50], [0, 0]]
    assert region_points(np.full((4, 4), 255, np.uint8), 255, 2).shape == (0, 2)


@pytest.mark.parametrize("class_token", [True, False])
def test_attention_is_that_of_the_patch_under_the_point(class_token: bool) -> None:
    plan = windows.plan((64, 96), (128, 192), 64, 32, 16)  # the photo is twice as large
    # Row i of the attention puts everything on patch i.
    weights = torch.eye(plan.grid[0] * plan.grid[1] + class_token)
    attention = weights.expand(plan.num_windows, 2, -1, -1)
    # (row, column) in the photo: window and patch follow from the geometry.
    cases = [(0, 0, 0, (0, 0)), (127, 191, 64, (3, 3)), (40, 100, 64, (1, 1)), (40, 90, 0, (1, 2))]
    for row, column, left, cell in cases:
        weights, box = attention_at(attention, plan, row, column)
        assert weights.shape == (4, 4)
        assert box.tolist() == [0, left, 128, 128]
        assert np.unravel_index(weights.argmax(), (4, 4)) == cell
        assert weights.sum() == 1


def test_pictures_are_kept_once_and_equal_segment(
    spec: Spec, photos: Folder, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    observer = Pictures(images=2, points=2)
    evaluate([spec], store, observers=[observer], progress=False)
    assert observer.pending(store, spec) == set()
    pictures = picture_files.load(store.root, [spec.key])
    assert [picture.name for picture in pictures] == ["0", "1"]
    for index, picture in enumerate(pictures):
        sample = photos[index]
        np.testing.assert_array_equal(picture.image, sample.image)
        np.testing.assert_array_equal(picture.mask, sample.mask)
        labels = lab.segment(
            spec.backbone, sample.image, photos.vocabulary, spec.attention, spec.protocol
        )
        np.testing.assert_array_equal(picture.predictions[0].prediction, labels)
        attention = picture.predictions[0].attention
        assert attention is not None
        assert attention.shape == (2, 4, 4)


def test_pictures_of_a_finished_cell(spec: Spec, tmp_path: Path) -> None:
    """Asked for later, they are taken, and nothing is counted twice."""
    store = Store(tmp_path / "store")
    before = evaluate([spec], store, progress=False)
    after = evaluate([spec], store, observers=[Pictures(1, 1)], progress=False)
    assert [picture.name for picture in picture_files.load(store.root, [spec.key])] == ["0"]
    assert before["pixels"].sum() == after["pixels"].sum()


def test_diagnostics_are_kept_once(spec: Spec, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    observer = Diagnostics(["attention_entropy", "inter_class_share"], images=2)
    evaluate([spec], store, observers=[observer], progress=False)
    frame = store.diagnostics(spec)
    assert sorted(zip(frame["image"], frame["measure"], strict=True)) == [
        (image, measure)
        for image in ("0", "1")
        for measure in ("attention_entropy", "inter_class_share")
    ]
    assert observer.pending(store, spec) == set()
    more = Diagnostics(["attention_entropy", "self_argmax_rate"], images=3)
    assert more.pending(store, spec) == {"0", "1", "2"}
    evaluate([spec], store, observers=[more], progress=False)
    assert len(store.diagnostics(spec)) == 3 + 2 + 3


def test_what_is_said_of_photos_together_needs_all_of_them(spec: Spec, tmp_path: Path) -> None:
    store, name = Store(tmp_path / "store"), "patch_retrieval_miou"
    evaluate([spec], store, observers=[Diagnostics([name], 3)], shard=(0, 2), progress=False)
    assert store.diagnostics(spec).empty  # half of the photos says nothing
    observer = Diagnostics([name, "attention_entropy"], images=3)
    evaluate([spec], store, observers=[observer], progress=False)
    frame = store.diagnostics(spec).groupby("measure")["image"].agg(sorted)
    assert frame.to_dict() == {n: ["0", "1", "2"] for n in (name, "attention_entropy")}
    assert observer.pending(store, spec) == set()


def test_a_variant_without_a_map(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    """Pictures have no attention then, and its measures are not defined."""
    store = Store(tmp_path / "store")
    spec = Spec(lab.load_attention("surgery"), backbone, protocol, photos)
    observers = [Pictures(1, 1), Diagnostics(["attention_entropy", "feature_invariance"], 1)]
    evaluate([spec], store, observers=observers, progress=False)
    assert [o.pending(store, spec) for o in observers] == [set(), set()]
    assert len(picture_files.load(store.root, [spec.key])) == 1


def test_unknown_measure() -> None:
    with pytest.raises(LabError, match="did you mean attention_entropy"):
        Diagnostics(["attention_entropi"])


def test_negative_numbers() -> None:
    with pytest.raises(LabError, match="0 or more"):
        Pictures(images=-1)
