"""One photo to a label map, whatever form it comes in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

import sclip_lab as lab
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation.encoded import Encoded
from sclip_lab.segmentation.protocol import Protocol
from tests.conftest import ARCHITECTURE

NAMES = ["sky", "grass, lawn", ["dog", "puppy"], "cat"]


def test_file_array_and_pil_are_the_same(
    backbone: Backbone, photos: Folder, protocol: Protocol
) -> None:
    csa = lab.load_attention("csa")
    path = photos.image_path("0")
    labels = lab.segment(backbone, path, NAMES, csa, protocol)
    assert labels.shape == (70, 100)
    assert labels.dtype == np.uint8
    assert labels.max() <= 3
    with Image.open(path) as image:
        pixels = np.array(image)
        for same in (str(path), pixels, image):
            found = lab.segment(backbone, same, NAMES, csa, protocol)
            np.testing.assert_array_equal(found, labels)


def test_synonyms_may_be_text_lists_or_a_vocabulary(
    backbone: Backbone, photos: Folder, protocol: Protocol
) -> None:
    csa, photo = lab.load_attention("csa"), photos[0].image
    vocabulary = Vocabulary("v", (("sky",), ("grass", "lawn"), ("dog", "puppy"), ("cat",)))
    np.testing.assert_array_equal(
        lab.segment(backbone, photo, vocabulary, csa, protocol),
        lab.segment(backbone, photo, NAMES, csa, protocol),
    )


def test_order_of_names_permutes_labels(
    backbone: Backbone, photos: Folder, protocol: Protocol
) -> None:
    csa, photo = lab.load_attention("csa"), photos[0].image
    forward = lab.segment(backbone, photo, ["sky", "grass", "dog"], csa, protocol)
    backward = lab.segment(backbone, photo, ["dog", "grass", "sky"], csa, protocol)
    np.testing.assert_array_equal(backward, 2 - forward)


def test_no_names(backbone: Backbone, photos: Folder) -> None:
    with pytest.raises(LabError, match="empty"):
        lab.segment(backbone, photos[0].image, [], lab.load_attention("csa"))


def test_photo_that_is_none(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"no photo")
    with pytest.raises(LabError, match=r"photo\.jpg"):
        lab.segment(backbone, tmp_path / "photo.jpg", ["sky"], lab.load_attention("csa"))
    with pytest.raises(LabError, match=r"nothing\.jpg"):
        lab.segment(backbone, tmp_path / "nothing.jpg", ["sky"], lab.load_attention("csa"))


@pytest.mark.parametrize("padding", ["floor", "corner"])
def test_windows_and_network_agree_on_the_grid(padding: str) -> None:
    backbone = load_backbone(architecture=ARCHITECTURE, seed=0, device="cpu", padding=padding)
    image = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    protocol = Protocol(short_side=None, crop_size=None, templates=("{}",))
    labels = lab.segment(backbone, image, NAMES, lab.load_attention("csa"), protocol)
    assert labels.shape == (100, 150)


def of_second_texts(encoded: Encoded, text: Tensor, second_text: Tensor | None = None) -> Tensor:
    texts = text if second_text is None else second_text
    return encoded.patches.float() @ texts.T


def test_second_templates_reach_the_readout_that_asks_for_them(
    backbone: Backbone, photos: Folder, protocol: Protocol
) -> None:
    csa, photo = lab.load_attention("csa"), photos[0].image

    def labels(**fields: object) -> np.ndarray:
        return lab.segment(backbone, photo, NAMES, csa, replace(protocol, **fields))

    usual, second = labels(readout=of_second_texts), ("the weather: {}",)
    assert (usual != labels(readout=of_second_texts, second_templates=second)).any()
    np.testing.assert_array_equal(labels(), labels(second_templates=second))
    with pytest.raises(LabError, match="second_templates: 'sky' needs exactly one"):
        labels(second_templates=("sky",))
    several = {"readout": {"_target_": "sclip_lab.segmentation.readouts.freecp.freecp"}}
    assert labels(**several, second_templates=second).shape == usual.shape
