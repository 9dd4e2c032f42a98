"""Photos to network input: crop, resize, normalise."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.data.decode import SIZE_VARIABLE, pixel_limit
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.protocol import Protocol

MOST_WINDOWS = 5_000
Size = tuple[int, int]


def resize(image: np.ndarray, size: Size, resampling: str = "bilinear") -> np.ndarray:
    """(height, width, 3) uint8 to ``size`` = (height, width).

    ``bilinear`` is cv2's, mmcv's default, which does not smooth before it shrinks; PIL's bilinear
    result differs by up to 34 grey levels. ``bicubic`` is PIL's, which smooths.
    """
    if image.shape[:2] == tuple(size):
        return image
    if resampling == "bicubic":
        return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def centre(pixels: np.ndarray, protocol: Protocol) -> np.ndarray:
    """The middle of a photo, (height, width, 3) uint8, or of its mask, (height, width).

    It is resized to the protocol's ``short_side`` (the longer side truncated; masks by nearest
    neighbours, as PIL does). Then ``centre_crop`` pixels around the middle are cut, as
    torchvision's Resize and CenterCrop place them.
    """
    short, crop = protocol.short_side, protocol.centre_crop
    assert short is not None
    assert crop is not None
    height, width = pixels.shape[:2]
    size = short * height // min(height, width), short * width // min(height, width)
    if pixels.ndim == 3:
        pixels = resize(pixels, size, protocol.resampling)
    else:
        ids = Image.fromarray(pixels.astype(np.int32))
        nearest = ids.resize((size[1], size[0]), Image.Resampling.NEAREST)
        pixels = np.array(nearest).astype(pixels.dtype)
    top, left = (round((side - crop) / 2) for side in size)
    return np.ascontiguousarray(pixels[top : top + crop, left : left + crop])


def to_pixels(image: np.ndarray, size: Size, resampling: str = "bilinear") -> Tensor:
    """(height, width, 3) uint8 RGB -> (3, *size) uint8 on the CPU.

    Raises:
        LabError: another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise LabError(
            f"image of shape {image.shape} and type {image.dtype}; (height, width, 3) uint8 wanted"
        )
    # A copy that torch may write to.
    resized = np.array(resize(image, size, resampling), order="C")
    return torch.from_numpy(resized).permute(2, 0, 1)


def to_input(image: np.ndarray, size: Size, backbone: Backbone) -> Tensor:
    """`to_pixels`, normalised: float32 on the CPU."""
    return backbone.normalise(to_pixels(image, size)[None])[0]


def prepare(
    image: np.ndarray, protocol: Protocol, backbone: Backbone
) -> tuple[windows.Plan, Tensor]:
    """Resize one photo, (height, width, 3) uint8 RGB, and plan its windows.

    Returns the window geometry, and (3, *plan.resized) uint8 on the CPU.

    Raises:
        LabError: another shape or type, windows smaller than a patch, or more pixels or windows
            than memory holds.
    """
    size = image.shape[0], image.shape[1]
    resized = protocol.resized(*size, backbone.patch_size)
    if resized[0] * resized[1] > pixel_limit():
        raise LabError(
            f"protocol.short_side {protocol.short_side} and long_side {protocol.long_side} make a "
            f"photo of {resized[1]} x {resized[0]} pixels; at most {pixel_limit()} are taken "
            f"({SIZE_VARIABLE} in the environment says how many)"
        )
    crop, stride, patch = protocol.crop_size, protocol.stride, backbone.patch_size
    multiple = patch if protocol.padding == "centre" else protocol.padding
    plan = windows.plan(resized, size, crop, stride, patch, backbone.padding, multiple)
    if plan.num_windows > MOST_WINDOWS:
        raise LabError(
            f"protocol.stride {stride} with crop_size {crop} cuts {plan.num_windows} windows of a "
            f"photo of {resized[1]} x {resized[0]} pixels; at most {MOST_WINDOWS} are taken at once"
        )
    return plan, to_pixels(image, resized, protocol.resampling)
