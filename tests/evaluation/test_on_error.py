"""Photos and variants that fail: once and by name, or left out and never silently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import sclip_lab as lab
from sclip_lab import results
from sclip_lab.attention.variant import Variant
from sclip_lab.core.errors import LabError
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import Unfinished, evaluate
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.network.context import BlockInput, Context, State
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation.protocol import Protocol
from tests import photos as photo_files

SIZES = [(64, 64 + 8 * i) for i in range(6)]


@pytest.fixture
def photos(tmp_path: Path) -> Folder:
    return photo_files.folder(photo_files.write(tmp_path / "photos", SIZES))


def cells(backbone: Backbone, photos: Folder, protocol: Protocol, *names: str) -> list[Spec]:
    return [Spec(lab.load_attention(name), backbone, protocol, photos) for name in names]


def damage(photos: Folder, *numbers: int) -> None:
    for number in numbers:
        path = photos.root / f"images/{number}.jpg"
        path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize("batch", [None, 4])
def test_a_damaged_photo_is_named_once_and_those_before_it_are_kept(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path, batch: int | None
) -> None:
    both = cells(backbone, photos, protocol, "vanilla", "csa")
    [spec.key for spec in both]  # of the sound folder
    damage(photos, 3, 5)
    with pytest.raises(LabError, match=r"images/3\.jpg") as caught:
        evaluate(both, tmp_path / "store", batch_images=batch, progress=False)
    assert str(caught.value).count(".jpg") == 1
    for spec in both:
        assert Store(tmp_path / "store").done(spec) == {"0", "1", "2"}


def test_skipped_photos_are_said_and_tried_again(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    both = cells(backbone, photos, protocol, "vanilla", "csa")
    whole = evaluate(both, tmp_path / "whole", progress=False)
    sound = {number: (photos.root / f"images/{number}.jpg").read_bytes() for number in (1, 4)}
    damage(photos, *sound)
    store = tmp_path / "store"
    for _ in range(2):  # the second run finds the same, and writes it down once
        df = evaluate(both, store, on_error="skip", progress=False)
        assert {tuple(images) for images in df.attrs["skipped"].values()} == {("1", "4")}
        assert all("1.jpg" in images["1"] for images in df.attrs["skipped"].values())
        assert len(list(store.glob("specs/*/skipped-*"))) == 2
    summary = results.summary(df)
    assert summary["images"].tolist() == [4, 4]
    assert summary["of"].tolist() == [6, 6]
    with pytest.warns(UserWarning, match="unfinished"), pytest.raises(LabError, match="unfinished"):
        results.load(store)
    for number, content in sound.items():
        (photos.root / f"images/{number}.jpg").write_bytes(content)
    again = evaluate(both, store, progress=False)
    pd.testing.assert_frame_equal(again, whole)
    assert again.attrs["skipped"] == {}


def test_a_variant_that_raises_fails_alone(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    good = cells(backbone, photos, protocol, "csa", "naclip")
    bad = Spec(lab.load_attention("vanilla", temperature=-1.0), backbone, protocol, photos, "bad")
    whole = evaluate(good, tmp_path / "whole", progress=False)
    with pytest.raises(Unfinished, match=r"^bad on image 0: .*temperature") as caught:
        evaluate([good[0], bad, good[1]], tmp_path / "store", progress=False)
    assert list(caught.value.failed) == [bad.key]
    frame = results.load(tmp_path / "store", [spec.key for spec in good])
    columns = ["attention", "image", "true", "predicted", "pixels"]
    pd.testing.assert_frame_equal(frame[columns], whole[columns])
    assert Store(tmp_path / "store").done(bad) == set()


def test_a_variant_that_yields_nan_fails_alone_on_the_image(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    [good, bad] = cells(backbone, photos, protocol, "csa", "vanilla")
    apply = Variant.apply

    def sometimes(self: Variant, entered: BlockInput, state: State, context: Context) -> State:
        result = apply(self, entered, state, context)
        # The first photo is the only one that is a single window.
        spoiled = self.name == "vanilla" and len(result.tokens) > 1
        return replace(result, tokens=result.tokens * torch.nan) if spoiled else result

    monkeypatch.setattr(Variant, "apply", sometimes)
    with pytest.raises(Unfinished, match=r"^vanilla on image 1: .*NaN"):
        evaluate([good, bad], tmp_path / "store", progress=False)
    store = Store(tmp_path / "store")
    assert store.done(good) == set(photos.names)
    assert store.done(bad) == {"0"}
    df = evaluate([good, bad], store, on_error="skip", progress=False)
    assert set(df.attrs["skipped"]) == {bad.key[:12]}
    assert set(df.attrs["skipped"][bad.key[:12]]) == set(photos.names) - {"0"}


def test_unknown_way(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    with pytest.raises(LabError, match="did you mean skip"):
        evaluate(cells(backbone, photos, protocol, "csa"), tmp_path, on_error="skp")
