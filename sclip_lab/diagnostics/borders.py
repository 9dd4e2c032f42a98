"""How a prediction fares at borders, of objects and of windows.

All functions take the (height, width) class ids of a whole photo.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from sclip_lab.segmentation.windows import Plan

Labels = npt.NDArray[np.integer]


def boundary_iou(
    prediction: Labels, mask: Labels, ignore_index: int = 255, share: float = 0.02
) -> float:
    """Mean, over the mask's classes, of the IoU of the bands along true and predicted borders.

    Cheng et al., CVPR 2021, arXiv 2103.16562, eq. 2: of each region only the pixels count that
    are at most d from its border, d = ``share`` of the photo's diagonal. The photo's edge is a
    border. Pixels whose mask is ``ignore_index`` count for neither. In 0 .. 1, high is good; NaN
    for a mask of void alone.
    """
    counted = mask != ignore_index
    distance = max(1, round(share * float(np.hypot(*mask.shape))))
    scores = []
    for label in np.unique(mask[counted]):
        true = band(mask == label, distance) & counted
        predicted = band((prediction == label) & counted, distance) & counted
        either = (true | predicted).sum()
        scores.append((true & predicted).sum() / either)
    return float(np.mean(scores)) if scores else float("nan")


def band(region: npt.NDArray[np.bool_], distance: int) -> npt.NDArray[np.bool_]:
    """Pixels of a region within ``distance`` of its border. What lies outside the photo does not
    belong to the region."""
    padded = np.pad(region.astype(np.uint8), 1)  # the photo's edge is a border
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return region & (eroded[1:-1, 1:-1] == 0)


def window_border_error(
    prediction: Labels, mask: Labels, plan: Plan, ignore_index: int = 255
) -> float:
    """Error rate within a patch of a window's edge, less the error rate elsewhere.

    A definition of this laboratory. Neither window edges that are edges of the photo count, nor
    pixels whose mask is ``ignore_index``. In -1 .. 1: above 0, seams show; NaN where there is one
    window, or where no pixel is near an edge, or none elsewhere.
    """
    near = [np.zeros(side, bool) for side in plan.target]
    for axis, (windows, flags) in enumerate(zip((plan.rows, plan.columns), near, strict=True)):
        side = plan.resized[axis]
        place = (np.arange(len(flags)) + 0.5) * side / len(flags)
        for start in windows.starts:
            for edge in (start, start + windows.crop):
                if 0 < edge < side:
                    flags |= np.abs(place - edge) < windows.patch
    close = near[0][:, None] | near[1]
    counted = mask != ignore_index
    wrong = prediction != mask
    if not (close & counted).any() or not (~close & counted).any():
        return float("nan")
    return float(wrong[close & counted].mean() - wrong[~close & counted].mean())
