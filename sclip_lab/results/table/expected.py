"""Scores that a protocol has to reproduce, and how far ours are from them.

A protocol's yaml lists them under ``expected``, one entry for each variant and network::

    expected:
      - {attention: csa, backbone: ViT-B-16, pretrained: openai, tolerance: 0.002,
         source: SCLIP README, miou: {voc21: 0.5963}}

``attention`` is the variant's label, ``backbone`` open_clip's architecture without "-quickgelu",
``miou`` a fraction for each data set, ``tolerance`` the largest difference that still counts as
reproduced. They are no part of a protocol's identity: they change no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sclip_lab.core.errors import LabError

ENTRY = ["attention", "backbone", "pretrained", "tolerance", "source", "miou"]


def table(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A protocol's ``expected`` with one row per score.

    Returns:
        Columns attention, backbone, pretrained, tolerance, source, dataset, miou.

    Raises:
        LabError: an entry lacks a key.
    """
    rows = []
    for entry in entries:
        missing = [key for key in ENTRY if key not in entry]
        if missing:
            raise LabError(f"protocol.expected: {dict(entry)} lacks {', '.join(missing)}")
        shared = {key: entry[key] for key in ENTRY if key != "miou"}
        rows += [{**shared, "dataset": name, "miou": miou} for name, miou in entry["miou"].items()]
    return pd.DataFrame(rows, columns=[*ENTRY[:-1], "dataset", "miou"])


def verdict(ours: float, theirs: float, tolerance: float) -> str:
    """ "within", "outside", "not run" where ours is NaN, or "no gate" where the tolerance is:
    a score that is not trusted enough to fail by. A tie is within."""
    if pd.isna(ours):
        return "not run"
    if pd.isna(tolerance):
        return "no gate"
    # Differences of decimal fractions are not exact.
    return "within" if abs(ours - theirs) <= tolerance + 1e-12 else "outside"


def report(spec: Any, miou: float, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each score that is expected of a cell: ours, theirs, difference, verdict.

    Args:
        spec: the cell. A local checkpoint is taken for the weights that an entry names; random
            weights match nothing, and a network with GELU is not OpenAI's.
        miou: what it scored, a fraction.
        entries: its protocol's ``expected``.
    """
    wanted = table(entries)
    weights = spec.backbone.description
    same = wanted[
        (wanted["attention"] == spec.label)
        & (wanted["backbone"] == spec.backbone.name.removesuffix("-quickgelu"))
        & (wanted["dataset"] == spec.dataset.name)
    ]
    if weights.get("checkpoint") is None:
        same = same[same["pretrained"] == weights.get("pretrained")]
    if spec.backbone.tower.settings["activation"] == "GELU":
        same = same[same["pretrained"] != "openai"]
    return [
        f"ours {100 * miou:.2f}, theirs {100 * row['miou']:.2f} ({row['source']}), "
        f"difference {100 * (miou - row['miou']):+.2f}"
        + ("" if pd.isna(row["tolerance"]) else f", tolerance {100 * row['tolerance']:.2f}")
        + f": {verdict(miou, row['miou'], row['tolerance'])}"
        for _, row in same.iterrows()
    ]
