"""Parts below any method: position embeddings, the resize, the spatial prior, the pooled output."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import sclip_lab as lab
from sclip_lab.attention.prior import gaussian
from sclip_lab.network.position_embedding import interpolate
from sclip_lab.segmentation import photos
from sclip_lab.segmentation.protocol import Protocol
from tests.parity.compare import FEATURES, Compared, close, comparison
from tests.parity.features import run
from tests.parity.vector_set import Arrays, VectorSet

RULES = {
    "sclip_family": "bicubic_offset",
    "bicubic_size": "bicubic",
    "bicubic_size_antialias": "bicubic_antialias",
    "bilinear_size": "bilinear",
}
SMALL = 5e-6


@comparison("openai_pooled")
def pooled(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    for one in arrays.inputs("pooled"):
        ours = run(toy.network(), lab.load_attention("vanilla"), toy.inputs[one])[1][0]
        yield close(f"{one}__pooled", ours, arrays[f"{one}__pooled"], FEATURES)


@comparison("naclip_prior")
def prior(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    for match, official in arrays.matching(r"prior_(\d+)x(\d+)_sigma([\d.]+)"):
        ours = gaussian((int(match[1]), int(match[2])), float(match[3]))
        yield close(match[0], ours, official, 1e-6)


@comparison("posemb")
def position_embeddings(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    table, trained = toy.weights["visual.positional_embedding"], (toy.clip.GRID, toy.clip.GRID)
    for match, official in arrays.matching(r"(\d+)x(\d+)__(.+)"):
        grid = int(match[1]), int(match[2])
        ours = interpolate(table, trained, grid, RULES[match[3]])
        yield close(match[0], ours[1:, : official.shape[1]], official, SMALL)


@comparison("preprocess", inputs="cv2_version|mmcv_version")
def preprocessing(toy: VectorSet, name: str, arrays: Arrays) -> Iterator[Compared]:
    """The share of values that differ: OpenCV's builds differ by one level in a few."""
    backbone = toy.network()
    for match, official in arrays.matching(r"photo(\d+)x(\d+)__resized_bgr_u8"):
        size = int(match[1]), int(match[2])
        photo = toy.clip.make_photo(toy.which, *size)
        ours = photos.resize(photo, official.shape[:2])
        yield Compared(match[0], float((ours != official).mean()), 1e-3, ours)
    for match, official in arrays.matching(r"photo(\d+)x(\d+)__.+_norm_crop(\d+)"):
        size, crop = (int(match[1]), int(match[2])), int(match[3])
        rgb = np.ascontiguousarray(toy.clip.make_photo(toy.which, *size)[..., ::-1])
        image = photos.to_input(rgb, Protocol().resized(*size), backbone)
        ours = image[:, :crop, :crop].numpy()
        yield Compared(match[0], float((~(np.abs(ours - official) <= 1e-5)).mean()), 1e-3, ours)
