"""One photo to a label map, whatever form it comes in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.loading import load_backbone
from sclip_lab.segmentation.encoded import Encoded, encode
from sclip_lab.segmentation.prompts import embed_vocabulary
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
            result = lab.segment(backbone, same, NAMES, csa, protocol)
            np.testing.assert_array_equal(result, labels)


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


def test_a_protocol_with_other_class_names(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("sky\ngrass\n")
    steps, csa = (
        replace(protocol, vocabulary=str(tmp_path / "words.txt")),
        lab.load_attention("csa"),
    )
    with pytest.raises(LabError, match=r"words.txt' replaces a data set's class names"):
        lab.segment(backbone, photos[0].image, ["dog", "cat"], csa, steps)
    lab.segment(backbone, photos[0].image, ["sky", "grass"], csa, steps)


def test_photo_that_is_none(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"no photo")
    with pytest.raises(LabError, match=r"photo\.jpg"):
        lab.segment(backbone, tmp_path / "photo.jpg", ["sky"], lab.load_attention("csa"))
    with pytest.raises(LabError, match=r"nothing\.jpg"):
        lab.segment(backbone, tmp_path / "nothing.jpg", ["sky"], lab.load_attention("csa"))


@pytest.mark.parametrize("size", [(100, 151), (43, 90)])
def test_centred_padding_is_the_official_loop(backbone: Backbone, size: tuple[int, int]) -> None:
    """Windows padded one by one, cut out again behind the upsampling, averaged: ClearCLIP's."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    patch, variant = backbone.patch_size, lab.load_attention("clearclip")
    crop = 3 * patch + 5
    protocol = Protocol(
        short_side=None, crop_size=crop, stride=29, templates=("{}",), padding="centre"
    )
    words = [
        f"{a} {b}" for a in ("red", "old", "tall", "one") for b in ("cat", "car", "sky", "sea")
    ]
    names = Vocabulary("v", tuple((word,) for word in words))
    text = embed_vocabulary(backbone, names, ("{}",))
    whole = backbone.normalise(torch.from_numpy(image).permute(2, 0, 1)[None])
    total, count = torch.zeros(len(words), *size), torch.zeros(size)
    tops, lefts = (
        [min(29 * i, max(side - crop, 0)) for i in range(max(side - crop + 28, 0) // 29 + 1)]
        for side in size
    )
    for y in tops:
        for x in lefts:
            window = whole[:, :, y : y + crop, x : x + crop]
            high, wide = window.shape[-2:]
            more = [-side % patch for side in (high, wide)]
            top, left = more[0] // 2, more[1] // 2
            padded = F.pad(window, (left, more[1] - left, top, more[0] - top))
            [(_, encoded)] = encode(backbone, padded, [variant])
            logits = F.normalize(encoded.patches, dim=-1) @ text.T
            up = F.interpolate(logits.permute(0, 3, 1, 2), padded.shape[-2:], mode="bilinear")[0]
            total[:, y : y + high, x : x + wide] += up[:, top : top + high, left : left + wide]
            count[y : y + high, x : x + wide] += 1
    expected = (total / count).argmax(0).numpy()
    result = lab.segment(backbone, image, names, variant, protocol)
    assert (result != expected).sum() <= 2  # near-ties
    plainly = lab.segment(backbone, image, names, variant, replace(protocol, padding=None))
    assert (plainly != expected).mean() > 0.02


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
