"""Maps of one photo as one HTML file that needs no network and no server."""

from __future__ import annotations

import base64
import gzip
import io
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from matplotlib import colormaps
from PIL import Image

from sclip_lab.core import files
from sclip_lab.report.explorer.maps import Maps, VariantMaps
from sclip_lab.report.pictures import PALETTE

# Steps of a map: 15 (half a byte) would show as bands; 255 (a byte) keep noise, which does not
# compress.
LEVELS = 31


@dataclass(frozen=True)
class Page:
    """A page as one HTML text, which Jupyter shows at the end of a cell."""

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page to a file. Raises LabError where it cannot be written."""
        files.write_text(Path(path), self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        style = "width:100%;height:720px;border:0"
        return f'<iframe style="{style}" title="explorer" srcdoc="{escape(self.html)}"></iframe>'


def page(maps: Maps, title: str = "photo") -> Page:
    """The explorer page of one photo, from what `sclip_lab.report.explorer.maps.look` returns."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # no blanks
    html = environment.from_string(_asset("explorer.html.j2")).render(
        title=title,
        backbone=maps.backbone,
        grid=maps.grid,
        variants=[variant.label for variant in maps.variants],
        data=_content(maps),
        script=_asset("explorer.js"),
        style=_asset("explorer.css"),
    )
    return Page(html)


def _content(maps: Maps) -> dict[str, Any]:
    height, width = maps.image.shape[:2]
    inferno = (255 * colormaps["inferno"](np.linspace(0, 1, LEVELS + 1))[:, :3]).round()
    return {
        "grid": maps.grid,
        "size": [height, width],
        "stride": maps.stride,
        "pool": maps.pool,
        "levels": LEVELS,
        "classes": list(maps.classes),
        "colors": [PALETTE[i % len(PALETTE)] for i in range(len(maps.classes))],
        "ramp": inferno.astype(int).tolist(),
        "photo": _photo(maps.image),
        "mask": None if maps.mask is None else _packed(_boundary(maps.mask).astype(np.uint8)),
        "layers": _stored(maps.layers),
        "variants": [_variant(variant) for variant in maps.variants],
    }


def _variant(variant: VariantMaps) -> dict[str, Any]:
    rows = np.tril_indices(len(variant.similarity))
    return {
        "label": variant.label,
        "attention": None if variant.attention is None else _stored(variant.attention),
        "heads": None if variant.heads is None else _stored(variant.heads),
        # The matrix is symmetric: its lower triangle, row by row, -1 .. 1 as 0 .. LEVELS.
        "similarity": _packed(_levels((variant.similarity[rows] + 1) / 2)),
        "top": _packed(variant.top.astype("<u2").view(np.uint8)),
        "probability": _packed((255 * variant.probability).round().astype(np.uint8)),
        "topn": variant.top.shape[1],
    }


def _stored(maps: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Maps (..., P) as bytes: the square root of each weight divided by its map's largest weight,
    which is stored too. Square roots leave more of the steps to small weights."""
    flat = maps.reshape(-1, maps.shape[-1])
    largest = flat.max(axis=1)
    relative = np.sqrt(np.clip(flat, 0, None) / np.maximum(largest, 1e-12)[:, None])
    return {
        "maps": _packed(_levels(relative)),
        "largest": _packed(largest.astype("<f4").view(np.uint8)),
        "per": list(maps.shape[1:-1]),
    }


def _levels(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    return (LEVELS * np.clip(values, 0, 1)).round().astype(np.uint8)


def _packed(values: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(gzip.compress(values.tobytes(), 9, mtime=0)).decode()


def _boundary(mask: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another class."""
    edge = np.zeros(mask.shape, dtype=bool)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    return edge


def _photo(image: npt.NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _asset(name: str) -> str:
    return (resources.files("sclip_lab.report.explorer") / name).read_text(encoding="utf-8")
