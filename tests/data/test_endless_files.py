"""A sparse file of a terabyte in the place of each file of a data set: named before it is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.coco_json import CocoJson
from sclip_lab.data.digests import file_digests
from sclip_lab.data.folder import Folder
from sclip_lab.data.prepare import prepare
from sclip_lab.data.sdist import check_digest

TERABYTE = 1 << 40


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.txt"
    path.touch()
    os.truncate(path, TERABYTE)
    return path


def test_photos_and_masks(large: Path) -> None:
    with pytest.raises(LabError, match=rf"large.txt: {TERABYTE} bytes"):
        file_digests([large])


def test_lists_of_a_data_set(large: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images/a.png")
    inputs = {"name": "x", "root": str(tmp_path), "images": "images", "masks": "images"}
    with pytest.raises(LabError, match=rf"dataset.split\) .*large.txt: {TERABYTE} bytes"):
        Folder(**inputs, image_suffix=".png", vocabulary="voc20_plain", split=str(large))  # type: ignore[arg-type]


def test_lists_and_annotations_of_downloads(large: Path, tmp_path: Path) -> None:
    with pytest.raises(LabError, match=rf"annotations .*large.txt: {TERABYTE} bytes"):
        CocoJson("x", tmp_path, ".", "large.txt")
    with pytest.raises(LabError, match=rf"archive .*large.txt: {TERABYTE} bytes"):
        check_digest(large, "0" * 64)
    for folder in ("imageLists", "annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "annotations/x.mat").touch()
    large.rename(tmp_path / "imageLists/test.txt")
    with pytest.raises(LabError, match=rf"list .*test.txt: {TERABYTE} bytes"):
        prepare("coco_stuff10k", tmp_path, tmp_path / "to")


def test_a_learned_projection(large: Path) -> None:
    with pytest.raises(LabError, match=rf"projection_file .*large.txt has {TERABYTE} bytes"):
        assert lab.load_attention("csa_learned", projection_file=str(large)).key
