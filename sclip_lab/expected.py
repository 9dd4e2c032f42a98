"""Scores that a protocol has to reproduce: its yaml's ``expected`` entries, and the verdict.

An entry names the variant (as tables call it), backbone and weights, the data sets' mIoU as
fractions, how far ours may be away, and who published them::

    expected:
      - {attention: csa, backbone: ViT-B-16, pretrained: openai, tolerance: 0.002,
         source: SCLIP README, miou: {voc21: 0.5963}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sclip_lab.errors import LabError, unknown

KEYS = ("attention", "backbone", "pretrained", "tolerance", "source", "miou")


def check(entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise a LabError if an entry lacks a key or has one that is not known."""
    for entry in entries:
        for key in entry:
            if key not in KEYS:
                raise unknown("key of protocol.expected", key, KEYS)
        missing = [key for key in KEYS if key not in entry]
        if missing:
            raise LabError(f"protocol.expected: {dict(entry)} lacks {', '.join(missing)}")


def verdict(
    entries: Sequence[Mapping[str, Any]],
    attention: str,
    backbone: Mapping[str, Any],
    dataset: str,
    ours: float,
) -> str | None:
    """One line: ours, theirs, difference, tolerance, verdict; None if nothing is expected.

    Args:
        entries: a protocol's ``expected``.
        attention: the variant's label; one with changed values matches no entry.
        backbone: ``name``, ``pretrained`` and ``checkpoint`` of the configuration. "-quickgelu" in
            the name is left out; a local checkpoint is taken for the weights of the entry.
        dataset: its name.
        ours: mIoU, a fraction.
    """
    check(entries)
    name = str(backbone["name"]).removesuffix("-quickgelu")
    for entry in entries:
        weights = backbone.get("checkpoint") or backbone.get("pretrained") == entry["pretrained"]
        same = (entry["attention"], entry["backbone"]) == (attention, name)
        if same and weights and dataset in entry["miou"]:
            theirs, tolerance = float(entry["miou"][dataset]), float(entry["tolerance"])
            difference = ours - theirs
            # The sum of two decimal fractions is not exact: a tie counts as within.
            close = abs(difference) <= tolerance + 1e-12
            return (
                f"expected: ours {100 * ours:.2f}, theirs {100 * theirs:.2f} "
                f"({entry['source']}), difference {100 * difference:+.2f}, "
                f"tolerance {100 * tolerance:.2f}: {'within' if close else 'OUTSIDE'}"
            )
    return None
