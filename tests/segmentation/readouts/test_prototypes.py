"""Class prototypes from the masks of other photos, against a plain numpy classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.data.base import Dataset, Sample
from sclip_lab.data.vocabulary import Vocabulary
from sclip_lab.evaluation.recorder import View
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.vit import load_vit
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.protocol import Protocol

TARGET = "sclip_lab.segmentation.readouts.prototypes.prototypes"
CLASSES = 4


class Scenes(Dataset):
    """Three photos of 64 x 96 pixels whose masks are patches of 16 pixels."""

    name = "scenes"
    ignore_index = 255
    vocabulary = Vocabulary("four", (("a", "also a"), ("b",), ("c",), ("d",)))

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.images = draw.integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
        self.grids = draw.integers(0, 2, (3, 4, 6), dtype=np.uint8)
        self.grids[0, 0, :2] = 2  # a class that one photo alone shows
        self.grids[1, 3, 3] = 255

    @property
    def names(self) -> list[str]:
        return ["first", "second", "third"]

    @property
    def key(self) -> str:
        return f"{self.images.sum()} {self.grids.tobytes().hex()}"

    def __getitem__(self, index: int) -> Sample:
        mask = self.grids[index].repeat(16, 0).repeat(16, 1)
        return Sample(name=self.names[index], image=self.images[index], mask=mask)


class Watch:
    """An observer that keeps patch logits and labels of photos."""

    def __init__(self) -> None:
        self.logits: dict[str, np.ndarray] = {}
        self.labels: dict[str, np.ndarray] = {}

    def pending(self, store: Store, spec: lab.Spec) -> set[str]:
        return set(spec.dataset.names)

    def observe(self, store: Store, view: View) -> None:
        name = view.photo.sample.name
        self.logits[name], self.labels[name] = view.logits[0].numpy(), view.prediction.numpy()

    def flush(self, store: Store) -> None: ...


@pytest.fixture(scope="module")
def vit() -> Backbone:
    """A random ViT of timm with a class token, 2 blocks of width 32, patches of 16 pixels."""
    small = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 64}
    return load_vit("vit_tiny_patch16_224", seed=1, device="cpu", options=small)


@pytest.fixture(scope="module")
def whole() -> Protocol:
    """Each photo as one window."""
    return Protocol(short_side=None, crop_size=None, readout={"_target_": TARGET})


def predicted(
    data: Scenes, vit: Backbone, protocol: Protocol, store: Path, *observers: Watch
) -> pd.DataFrame:
    spec = lab.Spec(lab.load_attention("csa"), vit, protocol, data)
    return lab.evaluate([spec], store, observers=observers, progress=False)


def by_hand(data: Scenes, vit: Backbone, index: int) -> np.ndarray:
    """(4, 6) class of each patch of one photo: nearest prototype of the others, in float64."""
    photos = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    result = lab.dense_features(vit, vit.normalise(photos), lab.load_attention("csa"))
    features = result.double().numpy()
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    cosines = np.full((4, 6, CLASSES), -1.0)
    for c in range(CLASSES):
        others = [i for i in range(3) if i != index and (data.grids[i] == c).any()]
        means = [features[i][data.grids[i] == c].mean(0) for i in others]
        if means:
            prototype = np.sum(means, 0)
            cosines[..., c] = features[index] @ (prototype / np.linalg.norm(prototype))
    return cosines


def test_logits_are_those_of_a_plain_classifier(
    vit: Backbone, whole: Protocol, tmp_path: Path
) -> None:
    """Of each query: two synonyms of class 0, then b, c and d. Class c is in the first photo alone,
    so that the first cannot find it, and d in none."""
    data, watch = Scenes(), Watch()
    predicted(data, vit, whole, tmp_path, watch)
    for index, name in enumerate(data.names):
        expected = by_hand(data, vit, index)
        np.testing.assert_allclose(watch.logits[name], expected[..., [0, 0, 1, 2, 3]], atol=2e-6)
        assert (expected[..., 2] == -1).all() == (index == 0)


def test_a_photo_does_not_see_its_own_mask(vit: Backbone, whole: Protocol, tmp_path: Path) -> None:
    """Another mask of the second photo: its own prediction stays to the bit, others' change."""
    data, other = Scenes(), Scenes()
    other.grids[1] = 1 - data.grids[1].clip(0, 1)
    before, after = Watch(), Watch()
    predicted(data, vit, whole, tmp_path, before)
    predicted(other, vit, whole, tmp_path, after)
    for observed in ("logits", "labels"):
        first, second = getattr(before, observed), getattr(after, observed)
        np.testing.assert_array_equal(first["second"], second["second"])
        assert not np.array_equal(first["first"], second["first"])


def test_shards_and_company_change_nothing(vit: Backbone, whole: Protocol, tmp_path: Path) -> None:
    """A shard reads all other photos, also those of other shards."""
    data = Scenes()
    alone = predicted(data, vit, whole, tmp_path / "alone")
    names = ("vanilla", "csa")
    specs = [lab.Spec(lab.load_attention(a), vit, whole, data) for a in names]
    for index in range(3):
        lab.evaluate(specs, tmp_path / "shards", shard=(index, 3), progress=False)
    together = lab.results.load(tmp_path / "shards", [specs[1].key])
    columns = ["image", "true", "predicted", "pixels"]
    pd.testing.assert_frame_equal(alone[columns], together[columns])
    batched = lab.evaluate([specs[1]], tmp_path / "batch", batch_images=3, progress=False)
    pd.testing.assert_frame_equal(alone[columns], batched[columns])


def test_what_has_no_text_or_no_other_photos_says_so(
    vit: Backbone, whole: Protocol, tmp_path: Path
) -> None:
    csa, data = lab.load_attention("csa"), Scenes()
    with pytest.raises(LabError, match="no text tower, and protocol custom reads texts"):
        lab.Spec(csa, vit, replace(whole, readout=None), data)
    with pytest.raises(LabError, match="no text tower, and attention cdam"):
        lab.Spec(lab.load_attention("cdam"), vit, whole, data)
    with pytest.raises(LabError, match="it cannot read class names"):
        lab.segment(vit, data.images[0], ["a", "b"], csa)
    alone = Scenes()
    alone.__class__ = type("One", (Scenes,), {"names": ["first"]})
    with pytest.raises(LabError, match="no photo beside first"):
        predicted(alone, vit, whole, tmp_path)
