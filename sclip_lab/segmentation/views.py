"""Changed copies of each window, whose patch logits are averaged.

ITACLIP (Aydin et al., CVPRW 2025, arXiv 2411.12044, "image engineering") also uses a window in
grey, blurred, and flipped in both directions. Every view is read out on its own, and flips are
undone on the logits. The average has a weight for each view:

    logits = sum_v w_v unflip_v(readout(encode(change_v(window)))) / sum_v w_v

A protocol states views by names of their own:
``{grey: {change: {_target_: sclip_lab.segmentation.views.grey}, flip: null, weight: 1.0}}``.
A change is any function ``(images, **parameters) -> images`` of (windows, 3, height, width)
normalised windows that moves nothing. The first view is the photo itself, which refinements and
observers read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sclip_lab.core.errors import LabError, unknown
from sclip_lab.core.functions import bind_config, view_function, written_out
from sclip_lab.core.identity import plain
from sclip_lab.core.values import check, within

DEFAULTS: Mapping[str, Any] = {"change": None, "flip": None, "weight": 1.0}
# The axis of (windows, grid_h, grid_w, queries) that is flipped; in images it is the next one.
FLIPS = {"vertical": 1, "horizontal": 2}
# Shares of red, green and blue in luma, ITU-R BT.601.
LUMA = (0.2989, 0.587, 0.114)
# Normalisation of CLIP's and of the embedded network's input; SigLIP's is 0.5 throughout.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Views = Mapping[str, Mapping[str, Any]]


@view_function
def grey(images: Tensor) -> Tensor:
    """Luma in all three channels, of normalised values."""
    shares = torch.tensor(LUMA).to(images).view(3, 1, 1)
    return (images * shares).sum(dim=1, keepdim=True).expand_as(images)


@view_function
def blur(images: Tensor, size: int = 11, sigma: float = 5.0) -> Tensor:
    """Gaussian blur within each window, which is reflected at its border.

    ``size`` of the kernel and ``sigma`` > 0 are in pixels; the kernel must be odd and fit.
    """
    margin = size // 2
    if size % 2 == 0 or not 0 <= margin < min(images.shape[-2:]):
        raise LabError(f"blur of size {size} must be odd and at most twice a window's side")
    within("blur of sigma", sigma, 0, above=True)
    distance = torch.arange(-margin, margin + 1, dtype=torch.float64)
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(images)
    padded = F.pad(images, (margin,) * 4, mode="reflect").flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return blurred[:, 0].view_as(images)


@view_function
def noise(images: Tensor, sigma: float, seed: int = 0, std: Sequence[float] = CLIP_STD) -> Tensor:
    """Gaussian noise, the same in every window, so that no window depends on the others.

    ``sigma`` is in grey levels, 0 .. 255; values are not clipped. The network's input was divided
    by ``std``, for pixels in 0 .. 1.
    """
    within("noise of sigma", sigma, 0)
    generator = torch.Generator().manual_seed(seed % 2**63)
    added = torch.randn(images.shape[1:], generator=generator) * (sigma / 255)
    return images + (added / torch.tensor(std).view(3, 1, 1)).to(images)


@view_function
def brightness(
    images: Tensor,
    factor: float,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Tensor:
    """Pixels times ``factor`` > 0, clipped at white; below 1 darkens.

    ``mean`` and ``std`` are those of the network's input, for pixels in 0 .. 1.
    """
    within("brightness of factor", factor, 0, above=True)
    center, spread = (torch.tensor(values).to(images).view(3, 1, 1) for values in (mean, std))
    return (((images * spread + center) * factor).clamp(max=1) - center) / spread


@view_function
def jpeg(
    images: Tensor,
    quality: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> Tensor:
    """Compress windows as JPEG of libjpeg's ``quality``, 1 .. 100, and decode; see `brightness`."""
    within("jpeg of quality", quality, 1, 100)
    center, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    pixels = (images.float().cpu() * spread + center).clamp(0, 1) * 255
    windows = []
    for window in pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        _, code = cv2.imencode(".jpg", window[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        assert decoded is not None  # it was encoded just now
        windows.append(decoded[..., ::-1].copy())
    back = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2).float() / 255
    return ((back - center) / spread).to(images)


def checked(views: Views | None) -> dict[str, dict[str, Any]] | None:
    """A protocol's views with defaults; None without any. A view that is null is off.

    Raises:
        LabError: an unknown key, function, parameter or flip, a weight below 0, weights that are
            all 0, or a first view that is not the photo itself.
    """
    if not views:
        return None
    if not isinstance(views, Mapping):
        raise LabError(f"protocol.views {views!r} must give every view a name")
    result = {
        name: _checked(f"protocol.views.{name}", v) for name, v in views.items() if v is not None
    }
    if not result:
        return None
    first, photo = next(iter(result.items()))
    if photo["change"] is not None or photo["flip"] is not None:
        raise LabError(
            f"protocol.views: the first is the photo itself, but {first} changes or flips it; "
            "give the photo the weight 0 to leave it out"
        )
    if math.fsum(view["weight"] for view in result.values()) == 0:
        raise LabError("protocol.views: all weights are 0")
    return result


def _checked(where: str, settings: Any) -> dict[str, Any]:
    """One view with defaults; ``where`` is its dotted key."""
    if not isinstance(settings, Mapping):
        raise LabError(f"{where} {settings!r} must have some of the keys {', '.join(DEFAULTS)}")
    for key in settings:
        if key not in DEFAULTS:
            raise unknown(f"key of {where}", key, DEFAULTS)
    view = {**DEFAULTS, **plain(settings)}
    check(f"{where}.flip", view["flip"], Literal["vertical", "horizontal"] | None)
    check(f"{where}.weight", view["weight"], float)
    within(f"{where}.weight", view["weight"], 0, 1e9)
    change = written_out(view["change"], view_function)
    return {"change": change, "flip": view["flip"], "weight": float(view["weight"])}


def see_one(windows: Tensor, view: Mapping[str, Any], name: str) -> Tensor:
    """One view of some windows, (windows, 3, height, width), same shape out.

    Raises:
        LabError: a change that returns another shape; the error names the view.
    """
    change = bind_config(view["change"], view_function)
    changed = windows if change is None else change(windows)
    if changed.shape != windows.shape:
        raise LabError(
            f"protocol.views.{name}: the change makes {tuple(changed.shape)} of windows of "
            f"{tuple(windows.shape)}"
        )
    return changed if view["flip"] is None else changed.flip(FLIPS[view["flip"]] + 1)


def average(logits: Tensor, views: Views | None) -> Tensor:
    """Average one photo's patch logits over all its views.

    (views * windows, grid_h, grid_w, queries), view by view -> (windows, grid_h, grid_w, queries).
    ``views`` are from `checked`; None: there is only the photo.
    """
    if not views:
        return logits
    total = math.fsum(view["weight"] for view in views.values())
    parts = logits.unflatten(0, (len(views), -1))
    result = torch.zeros_like(parts[0])
    for part, view in zip(parts, views.values(), strict=True):
        upright = part if view["flip"] is None else part.flip(FLIPS[view["flip"]])
        result += upright * (view["weight"] / total)
    return result
