"""Oracle: what was written is read back, bit by bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sclip_lab.core.errors import LabError
from sclip_lab.results.store import picture_files
from sclip_lab.results.store.picture_files import PHOTO, PREDICTION
from tests.synthetic_store import key_of, write_pictures, write_spec, write_store

DIGEST = key_of("shapes")
IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
MASK = np.arange(24, dtype=np.uint8).reshape(4, 6)
POINTS = np.array([[1, 2], [3, 0]], np.int32)
MAPS = np.random.default_rng(0).random((2, 3, 5), np.float32)
BOXES = np.array([[0, 0, 4, 4], [0, 2, 4, 4]], np.int32)


def test_round_trip_in_the_data_sets_order(tmp_path: Path) -> None:
    names = ["z/with slash", "a b%", "ü"]
    key = write_spec(tmp_path, "csa", [], names)
    for name in reversed(names):
        picture_files.save(tmp_path, PHOTO, DIGEST, name, image=IMAGE, mask=MASK)
        arrays = {"points": POINTS, "attention": MAPS, "attention_box": BOXES}
        picture_files.save(tmp_path, PREDICTION, key, name, prediction=MASK + 1, **arrays)
    pictures = picture_files.load(tmp_path)
    assert [picture.name for picture in pictures] == names
    for picture in pictures:
        np.testing.assert_array_equal(picture.image, IMAGE)
        np.testing.assert_array_equal(picture.mask, MASK)
        assert picture.ignore_index == 255
        (prediction,) = picture.predictions
        np.testing.assert_array_equal(prediction.prediction, MASK + 1)
        np.testing.assert_array_equal(prediction.points, POINTS)
        np.testing.assert_array_equal(prediction.attention, MAPS)
        np.testing.assert_array_equal(prediction.attention_box, BOXES)


def test_variants_come_in_order_and_may_lack_attention(tmp_path: Path) -> None:
    keys = write_store(tmp_path)
    write_pictures(tmp_path, keys)
    first = picture_files.load(tmp_path)[0]
    labels = [prediction.label for prediction in first.predictions]
    assert labels == ["vanilla", "csa", "csa(temperature=2.0)", "identity"]
    assert first.predictions[-1].attention is None
    assert first.predictions[0].attention is not None
    only = picture_files.load(tmp_path, [keys[1][:8]])[0]
    assert [prediction.label for prediction in only.predictions] == ["csa"]


def test_equal_labels_are_told_apart(tmp_path: Path) -> None:
    for seed, backbone in enumerate(["B", "L"]):
        key = write_spec(tmp_path, "csa", [], ["x"], seed=seed, names={"backbone": backbone})
        picture_files.save(tmp_path, PREDICTION, key, "x", prediction=MASK)
    picture_files.save(tmp_path, PHOTO, DIGEST, "x", image=IMAGE, mask=MASK)
    (picture,) = picture_files.load(tmp_path)
    assert {prediction.label for prediction in picture.predictions} == {"csa · B", "csa · L"}


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = picture_files.save(tmp_path, PHOTO, DIGEST, "x", image=IMAGE, mask=MASK)

    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(LabError, match=r"cannot write .*x\.npz: No space left"):
        picture_files.save(tmp_path, PHOTO, DIGEST, "x", image=IMAGE, mask=MASK)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["x.npz"]


def test_a_store_without_pictures_has_none(tmp_path: Path) -> None:
    write_store(tmp_path)
    assert picture_files.load(tmp_path) == []


def test_missing_or_broken_files_are_named(tmp_path: Path) -> None:
    key = write_spec(tmp_path, "csa", [], ["x"])
    file = picture_files.save(tmp_path, PREDICTION, key, "x", prediction=MASK)
    with pytest.raises(LabError, match=rf"{DIGEST[:12]}.x\.npz cannot be read"):
        picture_files.load(tmp_path)
    picture_files.save(tmp_path, PHOTO, DIGEST, "x", image=IMAGE, mask=MASK)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(LabError, match=r"pictures.x\.npz has no seal"):
        picture_files.load(tmp_path)
