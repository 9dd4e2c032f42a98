"""Every protocol labels a photo: its windows, texts, readout and refinement fit together."""

from __future__ import annotations

import numpy as np
import pytest

import sclip_lab as lab
from sclip_lab.config.folders import names
from sclip_lab.config.registry import load_group
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.network.backbone import Backbone
from tests.make_clip import make_photo
from tests.second_network import guide

# The variant that a protocol's readout, threshold or words want.
ATTENTION = {"cdam": "cdam", "cliper": "cliper", "cliptrase": "cliptrase", "itaclip": "itaclip"}
GUIDED = ("lposs", "lposs_plus")


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["voc21", "cityscapes"])
@pytest.mark.parametrize("name", names("protocol"))
def test_one_photo(backbone: Backbone, name: str, dataset: str) -> None:
    # Smaller photos and windows than published: the network of tests is of 96 pixels.
    sides = {"short_side": 112, "stride": 56, "templates": ("{}",)}
    usual = lab.load_protocol(name, dataset)
    if usual.crop_size is not None:
        sides["crop_size"] = 64
    if usual.centre_crop is not None:
        sides["centre_crop"] = 112
    protocol = lab.load_protocol(name, dataset, **sides)
    vocabulary_name = protocol.vocabulary or load_group("dataset", dataset)["vocabulary"]
    words = Vocabulary.named(vocabulary_name)
    variant = lab.load_attention(ATTENTION.get(name, "csa"), protocol=name, dataset=dataset)
    photo = make_photo("public", 120, 150)
    second = guide() if name in GUIDED else None
    labels = lab.segment(backbone, photo, words, variant, protocol, second)
    assert labels.shape == ((112, 112) if protocol.centre_crop else (120, 150))
    assert labels.max() < words.num_classes
    again = lab.segment(backbone, photo, words, variant, protocol, second)
    assert np.array_equal(labels, again)
