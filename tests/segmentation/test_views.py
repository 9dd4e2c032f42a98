"""Views of a window: what each changes, that flips are undone, and who averages them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import sclip_lab as lab
from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import allow
from sclip_lab.data.folder import Folder
from sclip_lab.evaluation.loop import evaluate
from sclip_lab.evaluation.observers import Diagnostics
from sclip_lab.evaluation.spec import Spec
from sclip_lab.network.backbone import Backbone
from sclip_lab.results.store.store import Store
from sclip_lab.segmentation import views
from sclip_lab.segmentation.protocol import Protocol
from tests.evaluation.test_loop import quiet, rows

NAMES = ["sky", "grass, lawn", "dog", "cat"]
GREY = {"_target_": "sclip_lab.segmentation.views.grey"}
BLUR = {"_target_": "sclip_lab.segmentation.views.blur", "size": 5, "sigma": 2.0}
FIVE: dict[str, Any] = {
    "photo": {"weight": 2},
    "grey": {"change": GREY},
    "blur": {"change": BLUR},
    "across": {"flip": "horizontal", "weight": 0.5},
    "down": {"flip": "vertical", "weight": 0.5},
}


def with_views(protocol: Protocol, changes: Any) -> Protocol:
    fields = {f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol) if f.init}
    return Protocol(**{**fields, "views": changes})


def photo(height: int = 70, width: int = 100) -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (9, 9, 3)).astype(np.float32)
    grid = torch.from_numpy(coarse).permute(2, 0, 1)[None]
    smooth = F.interpolate(grid, (height, width), mode="bilinear")[0]
    return smooth.permute(1, 2, 0).round().byte().numpy()


def segment(backbone: Backbone, image: np.ndarray, protocol: Protocol) -> np.ndarray:
    return lab.segment(backbone, image, NAMES, lab.load_attention("csa"), protocol)


def test_grey_is_the_same_in_all_channels_and_leaves_grey_alone() -> None:
    images = torch.randn(2, 3, 8, 9)
    built = views.grey(images)
    assert built.shape == images.shape
    assert torch.equal(built[:, 0], built[:, 1])
    assert torch.equal(built[:, 0], built[:, 2])
    # BT.601 with four digits, as elsewhere: the shares sum to 0.9999.
    torch.testing.assert_close(views.grey(built), 0.9999 * built)


def test_blur_against_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    images = torch.randn(2, 3, 20, 31, dtype=torch.float64)
    # A radius of 5 pixels at sigma 5; scipy calls this border "mirror".
    expected = ndimage.gaussian_filter(images.numpy(), 5.0, radius=5, axes=(2, 3), mode="mirror")
    np.testing.assert_allclose(views.blur(images).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "sigma"), [(4, 5.0), (21, 5.0), (-1, 5.0), (3, 0.0)])
def test_blur_that_is_not_possible(size: int, sigma: float) -> None:
    with pytest.raises(LabError, match="blur"):
        views.blur(torch.zeros(1, 3, 10, 10), size, sigma)


def every_view(images: torch.Tensor, changes: views.Views | None) -> torch.Tensor:
    assert changes
    return torch.cat([views.see_one(images, view, name) for name, view in changes.items()])


def test_average_undoes_what_see_did() -> None:
    """With pixels for logits, an average of flips alone is the image."""
    inputs = views.checked({"photo": {"weight": 3}, "a": {"flip": "horizontal"},
                           "b": {"flip": "vertical", "weight": 2}})  # fmt: skip
    images = torch.randn(4, 3, 6, 5)
    observed = every_view(images, inputs)
    assert observed.shape == (12, 3, 6, 5)
    assert torch.equal(observed[4:8], images.flip(3))
    assert torch.equal(observed[8:], images.flip(2))
    result = views.average(observed.permute(0, 2, 3, 1), inputs)
    torch.testing.assert_close(result, images.permute(0, 2, 3, 1))


def test_the_photo_alone_is_no_views(backbone: Backbone, protocol: Protocol) -> None:
    alone = with_views(protocol, {"photo": {"weight": 1}})
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(every_view(images, alone.views), images)
    logits = torch.randn(2, 4, 4, 7)
    assert torch.equal(views.average(logits, alone.views), logits)
    result = segment(backbone, photo(), alone)
    np.testing.assert_array_equal(result, segment(backbone, photo(), protocol))


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_flipped_view_of_a_photo_is_the_flipped_photo(
    backbone: Backbone, protocol: Protocol, flip: str, axis: int
) -> None:
    """Windows at 0, 32, 64 of 128 pixels are the same from either side."""
    image = photo(128, 128)
    flipped = with_views(protocol, {"photo": {"weight": 0}, "flipped": {"flip": flip}})
    result = segment(backbone, image, flipped)
    expected = np.flip(
        segment(backbone, np.ascontiguousarray(np.flip(image, axis)), protocol), axis
    )
    assert (result != expected).mean() < 1e-3
    assert (result != segment(backbone, image, protocol)).any()


def test_loop_and_single_photo_agree(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    """In batches too, and with observers, which see the unchanged windows."""
    five = with_views(protocol, FIVE)
    cell = Spec(lab.load_attention("csa"), backbone, five, photos)
    df = quiet([cell], tmp_path / "1")
    for index, name in enumerate(photos.names):
        sample = photos[index]
        labels = lab.segment(
            backbone, sample.image, photos.vocabulary, lab.load_attention("csa"), five
        )
        remaining = sample.mask != 255
        cells, areas = np.unique(
            np.stack([sample.mask[remaining], labels[remaining]]), axis=1, return_counts=True
        )
        result = df[df["image"] == name][["true", "predicted", "pixels"]].to_numpy()
        np.testing.assert_array_equal(result, np.vstack([cells, areas]).T)
    batch = quiet([cell], tmp_path / "3", batch_images=3)
    keys = ["attention", "image", "true", "predicted"]
    both = rows(df).merge(rows(batch), on=keys, how="outer").fillna(0)
    assert (both["pixels_x"] - both["pixels_y"]).abs().sum() / 2 <= 1e-3 * df["pixels"].sum()
    assert not rows(df).equals(
        rows(quiet([Spec(cell.attention, backbone, protocol, photos)], tmp_path / "none"))
    )


def test_cells_that_differ_in_weights_share_a_pass(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    first = with_views(protocol, FIVE)
    second = with_views(protocol, {**FIVE, "grey": {"change": GREY, "weight": 0}})
    assert first.geometry == second.geometry
    assert first.key != second.key
    csa = lab.load_attention("csa")
    cells = [Spec(csa, backbone, p, photos) for p in (first, second)]
    together = quiet(cells, tmp_path / "together")
    for cell in cells:
        alone = quiet([cell], tmp_path / cell.key)
        ours = together[together["spec"] == cell.key[:12]]
        assert rows(alone).equals(rows(ours))


def test_cached_trunks_have_all_views(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    csa = lab.load_attention("csa")
    cells = [
        Spec(csa, backbone, with_views(protocol, inputs), photos)
        for inputs in (FIVE, {**FIVE, "blur": {"change": BLUR, "weight": 3}})
    ]
    for cell in cells:
        plain = quiet([cell], tmp_path / cell.key)
        cached = quiet([cell], tmp_path / "cached", trunk_cache_gb=1.0)
        assert rows(plain).equals(rows(cached[cached["spec"] == cell.key[:12]]))


def test_observers_see_the_photo(
    backbone: Backbone, photos: Folder, protocol: Protocol, tmp_path: Path
) -> None:
    """Measures of the network do not depend on views that only the labels know of."""
    values = []
    for name, chosen in (("with", with_views(protocol, FIVE)), ("without", protocol)):
        cell = Spec(lab.load_attention("csa"), backbone, chosen, photos)
        measure = Diagnostics(["attention_entropy"], images=2)
        evaluate([cell], tmp_path / name, observers=[measure], progress=False)
        result = Store(tmp_path / name).diagnostics(cell)
        values.append(result.sort_values("image")["value"].to_numpy())
    assert len(values[0]) == 2
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["grey"], "must give every view a name"),
        ({"photo": "grey"}, "must have some of the keys change, flip, weight"),
        ({"photo": {}, "a": {"flips": None}}, "unknown key of protocol.views.a 'flips'.*flip"),
        ({"photo": {}, "a": {"flip": "horizontl"}}, "protocol.views.a.flip.*mean horizontal"),
        ({"photo": {}, "a": {"weight": -1}}, "protocol.views.a.weight -1 must be at least 0"),
        ({"photo": {}, "a": {"weight": float("nan")}}, "weight: nan must be a finite number"),
        ({"photo": {}, "a": {"change": "grey"}}, "needs a _target_"),
        (
            {"photo": {}, "a": {"change": {"_target_": "sclip_lab.segmentation.views.gray"}}},
            "mean grey",
        ),
        ({"photo": {}, "a": {"change": {**BLUR, "sigmas": 1}}}, "mean sigma"),
        ({"a": {"flip": "vertical"}}, "the first is the photo itself, but a"),
        ({"photo": {"weight": 0}}, "all weights are 0"),
    ],
)
def test_views_that_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        Protocol(views=inputs)


def test_a_change_of_shape_is_refused() -> None:
    allow("tests.segmentation.test_views")
    inputs = views.checked(
        {"photo": {}, "a": {"change": {"_target_": "tests.segmentation.test_views.half"}}}
    )
    with pytest.raises(LabError, match=r"views\.a: the change makes \(1, 3, 4, 4\)"):
        every_view(torch.zeros(1, 3, 8, 8), inputs)


def half(images: torch.Tensor) -> torch.Tensor:
    return images[..., ::2, ::2]


def test_null_turns_a_view_off_and_defaults_are_the_same_key() -> None:
    assert Protocol(views={"photo": {}, "grey": None}).key == Protocol(views={"photo": {}}).key
    assert Protocol(views={"photo": None}).views is None
    short = Protocol(
        views={"photo": {}, "blur": {"change": {"_target_": "sclip_lab.segmentation.views.blur"}}}
    )
    written = {"_target_": "sclip_lab.segmentation.views.blur", "size": 11, "sigma": 5.0}
    long = {"photo": {"weight": 1, "flip": None}, "blur": {"change": written, "weight": 1.0}}
    assert short.key == Protocol(views=long).key
