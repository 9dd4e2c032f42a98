"""COCO's category ids.

Ids are 1..90 things and 91..182 stuff; eleven things were never released (Caesar et al.,
COCO-Stuff, CVPR 2018, and the categories of instances_val2017.json).
"""

from __future__ import annotations

UNRELEASED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
THINGS = tuple(i for i in range(1, 91) if i not in UNRELEASED)  # 80
STUFF = tuple(range(92, 183))  # 91
CATEGORIES = THINGS + STUFF  # 171, in the order every benchmark numbers them
