"""Morphological closing of a label map."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from sclip_lab.core.errors import LabError
from sclip_lab.core.functions import refines_labels


@refines_labels
def closing(prediction: Tensor, size: int = 3) -> Tensor:
    """Dilate the class ids, then erode them, with a square: gaps of low ids are closed.

    ITACLIP (arXiv 2411.12044, code) uses 3 x 3. Ids are compared as numbers, so the higher of two
    classes wins. ``size`` is the side of the square in pixels, odd.
    """
    if size < 1 or size % 2 == 0:
        raise LabError(f"refinement closing: size {size} must be odd and at least 1")
    square = np.ones((size, size), dtype=np.uint8)
    closed = cv2.morphologyEx(prediction.cpu().numpy(), cv2.MORPH_CLOSE, square)
    return torch.from_numpy(closed).to(prediction)
