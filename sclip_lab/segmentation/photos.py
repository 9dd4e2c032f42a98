"""Photos to network input: resize, normalise."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from sclip_lab.data.decode import SIZE_VARIABLE, pixel_limit
from sclip_lab.errors import LabError
from sclip_lab.network.backbone import Backbone
from sclip_lab.segmentation import windows
from sclip_lab.segmentation.protocol import Protocol

MOST_WINDOWS = 5_000


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8 to ``size`` = (height, width), as mmcv's default backend does.

    cv2's bilinear does not smooth before it shrinks; PIL's does, and differs by up to 34 levels.
    """
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def to_input(image: np.ndarray, size: tuple[int, int], backbone: Backbone) -> Tensor:
    """(height, width, 3) uint8 RGB -> (3, *size) float32, normalised, on the CPU.

    Raises:
        LabError: another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise LabError(
            f"image of shape {image.shape} and type {image.dtype}; (height, width, 3) uint8 wanted"
        )
    resized = np.array(resize(image, size), order="C")  # a copy that torch may write to
    return backbone.normalise(torch.from_numpy(resized).permute(2, 0, 1)[None])[0]


def prepare(
    image: np.ndarray, protocol: Protocol, backbone: Backbone
) -> tuple[windows.Plan, Tensor]:
    """What a protocol makes of one photo, (height, width, 3) uint8 RGB.

    Returns:
        the window geometry, and (3, *plan.resized) float32, normalised, on the CPU.

    Raises:
        LabError: another shape or type, windows smaller than a patch, or a resized photo or so
            many windows that memory would not hold them.
    """
    size = image.shape[0], image.shape[1]
    resized = protocol.resized(*size)
    if resized[0] * resized[1] > pixel_limit():
        raise LabError(
            f"protocol.short_side {protocol.short_side} and long_side {protocol.long_side} make a "
            f"photo of {resized[1]} x {resized[0]} pixels; at most {pixel_limit()} are taken "
            f"({SIZE_VARIABLE} in the environment says how many)"
        )
    crop, stride = protocol.crop_size, protocol.stride
    count = 1 if crop is None else math.prod(max(0, side - crop) // stride + 1 for side in resized)
    if count > MOST_WINDOWS:
        raise LabError(
            f"protocol.stride {stride} with crop_size {crop} cuts about {count} windows of a photo "
            f"of {resized[1]} x {resized[0]} pixels; at most {MOST_WINDOWS} are taken at once"
        )
    plan = windows.plan(
        resized, size, protocol.crop_size, protocol.stride, backbone.patch_size, backbone.padding
    )
    return plan, to_input(image, resized, backbone)
